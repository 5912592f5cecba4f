"""The picture of modules in docs/architecture.md, drawn from the modules that there are and what they import.

python -m tests.support.module_diagram docs/images/modules.svg
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

from tests.test_package import ORDER, PACKAGE, SOURCE, imports

# Layers from left to right of ORDER, each with its first module and a colour.
LAYERS = (
    ("Values", "errors", "#dbe7ff"),
    ("Plan and columns", "plan", "#d6f0ea"),
    ("Storage, engines", "storage", "#fde9cf"),
    ("Snapshots", "making", "#fff3b8"),
    ("Reading", "fits", "#e3f4c7"),
    ("Faces", "callbacks", "#f9d9e4"),
    ("Runs, commands", "summary", "#e6dcf7"),
)
WIDTH, LEFT, BOX_HEIGHT, GAP, CHARACTER = 900, 190, 26, 8, 7.3


def layer_of(module: str) -> int:
    rank = ORDER.index(module)
    return max(number for number, (_, first, _) in enumerate(LAYERS) if ORDER.index(first) <= rank)


def modules() -> list[list[str]]:
    """The package's modules, by layer, in the order of ORDER."""
    present = [name for name in ORDER if (SOURCE / f"{name}.py").exists() or (SOURCE / name / "__init__.py").exists()]
    return [[name for name in present if layer_of(name) == number] for number in range(len(LAYERS))]


def used() -> list[set[int]]:
    """For each layer the others that its modules import from; imports inside methods of faces and for types aside."""
    found: list[set[int]] = [set() for _ in LAYERS]
    for one in imports():
        names = one.target.split(".")
        ours = names[0] == PACKAGE and len(names) > 1 and names[1] in ORDER and one.module in ORDER
        if ours and not one.for_types_only and not one.in_a_face_method:
            found[layer_of(one.module)].add(layer_of(names[1]))
    return [layers - {number} for number, layers in enumerate(found)]


def svg() -> str:
    """The picture: a row a layer, a box a module, and what each layer imports."""
    shapes, top = [], 16.0
    for number, (layer, uses) in enumerate(zip(modules(), used(), strict=True)):
        title, _, colour = LAYERS[number]
        boxes, x, y = [], float(LEFT), top + 12
        for name in layer:
            shown = name + "/" if (SOURCE / name).is_dir() else name
            width = len(shown) * CHARACTER + 18
            if x + width > WIDTH - 24:
                x, y = float(LEFT), y + BOX_HEIGHT + GAP
            boxes.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BOX_HEIGHT}" rx="5" fill="#fff" '
                f'stroke="#445"/><text x="{x + width / 2:.1f}" y="{y + 17.5:.1f}" text-anchor="middle" '
                f'class="code">{escape(shown)}</text>'
            )
            x += width + GAP
        below = ", ".join(LAYERS[one][0] for one in sorted(uses)) or "nothing of ours"
        bottom = y + BOX_HEIGHT + 26
        shapes.append(
            f'<rect x="12" y="{top:.1f}" width="{WIDTH - 24}" height="{bottom - top:.1f}" rx="8" fill="{colour}"/>'
            f'<text x="28" y="{top + 30:.1f}" class="title">{escape(title)}</text>'
            f'<text x="{LEFT}" y="{bottom - 9:.1f}" class="small">imports {escape(below)}</text>' + "".join(boxes)
        )
        top = bottom + 10
    height = top + 6
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        'aria-label="Modules of the package in layers; each layer imports only layers above it">\n'
        "<style>text{font-family:system-ui,sans-serif;fill:#223}.title{font-size:15px;font-weight:600}"
        ".code{font-family:ui-monospace,monospace;font-size:12px}.small{font-size:12px;fill:#445}</style>\n"
        f'<rect width="{WIDTH}" height="{height:.0f}" rx="10" fill="#fff"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(), encoding="utf-8")
