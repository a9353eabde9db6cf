"""``python prepare.py FOLDER``: write the folder that `mlflow models serve` takes."""

import sys
from pathlib import Path

import mlflow

if __name__ == "__main__":
    here = Path(__file__).parent
    mlflow.pyfunc.save_model(sys.argv[1], python_model=str(here / "app.py"), pip_requirements=[])
