"""The flights of lightning_flights.py, the same FileSets and columns, trained by Keras on the backend of your choice.

    python recipes/keras_flights.py
    python recipes/keras_flights.py keras.backend=jax
    python recipes/keras_flights.py keras.backend=tensorflow trainer.max_epochs=1
    python recipes/keras_flights.py -m model.lr=0.1,0.01

Expect one line an epoch, and then the same table as from lightning_flights.py, with the model's RMSE near 16 minutes.
On tensorflow the time spent waiting for data is not shown: tf.data reads in a thread of its own.

A process has one backend, so `-m keras.backend=torch,jax` needs a launcher that starts processes; or start two runs.
Everything is chosen in the configs (conf/experiment/flights_keras.yaml); `--help` lists them.
"""

from fileset_integrations.train import main

if __name__ == "__main__":
    main("experiment=flights_keras")
