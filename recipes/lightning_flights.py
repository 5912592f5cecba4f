"""How late will a flight arrive, told when it leaves the gate? Lightning, on flights out of New York City in 2013.

    python recipes/lightning_flights.py
    python recipes/lightning_flights.py trainer.max_epochs=1 data.batch_size=4096
    python recipes/lightning_flights.py -m model.lr=0.1,0.01

The first run makes two FileSets from SQL under data/filesets: 273,355 flights of January to October to train on, 53,991
of November and December to validate. Later runs open them. Five epochs take well under a minute on two cores.

Expect a table of RMSE and MAE in minutes: the model's RMSE is about 16.1, that of the departure delay with its mean
difference 16.9, and the training mean's 40. Most of what is left nobody knows at the gate. Beneath it: rows per second,
seconds spent waiting for data, and the run's folder under logs/flights, with the loss curves and the predicted delays
against the true ones as PNG.

Everything is chosen in the configs (conf/experiment/flights.yaml); `--help` lists them.
"""

from fileset_integrations.train import main

if __name__ == "__main__":
    main("experiment=flights")
