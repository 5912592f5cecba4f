"""Which digit is it? Lightning, on scikit-learn's 1,797 images of 8 x 8 pixels, read from a list column.

    python recipes/lightning_digits.py
    python recipes/lightning_digits.py -m model.lr=0.1,0.01

The images lie in a column of lists of 64 floats; `Stack("pixels", shape=(8, 8))` in conf/columns/digits.yaml makes a
tensor of shape (batch, 8, 8) of it. They are one FileSet, of which conf/filesets/digits.yaml makes a part to train
on and one to validate with. Ten epochs take a few seconds.

Expect a table in which the model is right for 98 % or more of the 450 validation images, beside two baselines: the
commonest digit (about 10 %) and the nearest of the ten mean images (about 90 %). Beneath it: rows per second, seconds
spent waiting for data, and the run's folder under logs/digits, with the loss curves and the confusion matrix as PNG.
"""

from fileset_integrations.train import main

if __name__ == "__main__":
    main("experiment=digits")
