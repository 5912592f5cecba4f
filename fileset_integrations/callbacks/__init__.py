"""Callbacks for training runs, one module a framework; `fileset_integrations.lightning` and `.keras` have them too."""

RAY_CHECKPOINT = "fit.ckpt"  # the trainer's file in the folder of a checkpoint that Ray Train keeps
