"""One application of the survey, from nothing to figures and pictures.

python -m experiments.medical_survey.demo --config=configs/medical_survey/TASK.py:demo --workdir=runs/TASK
"""

import sys

from experiments import train_and_evaluate

if __name__ == "__main__":
    sys.exit(train_and_evaluate.run("configs/medical_survey/anomaly_detection.py:demo"))
