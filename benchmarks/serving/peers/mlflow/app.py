"""`mlflow models serve`: this file is the model ("models from code"); prepare.py puts it into a folder.

Parquet in is the nearest to binary that the server takes. Its answers are JSON whatever happens: for Parquet the outputs of a row go as one
base64 text, which is kinder than a list of numbers.
"""

import mlflow
import numpy as np
from same_work import SameWork


class Api(mlflow.pyfunc.PythonModel):
    """Decode, run, encode."""

    def load_context(self, context) -> None:
        self.work = SameWork()

    def predict(self, context, model_input, params=None):
        if isinstance(model_input, dict):
            return self.work.to_columns(self.work(self.work.from_columns(model_input)))
        columns = {name: np.frombuffer(bytearray().join(model_input[name]), "<f4") for name in self.work.inputs}
        outputs = self.work({name: array.reshape(len(model_input), *self.work.inputs[name]) for name, array in columns.items()})
        rows = range(len(model_input))
        return [self.work.to_raw({name: array[row : row + 1] for name, array in outputs.items()}) for row in rows]


mlflow.models.set_model(Api())
