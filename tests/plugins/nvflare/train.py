"""A training script of a FLARE job: adds one to the model each round; ``--fault`` and its round let it misbehave."""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import nvflare.client as flare
from nvflare.app_common.np.constants import NPConstants


def misbehave(fault, here):
    """Do what a test asks for, once the marker file (beside the job's own) says that training has begun."""
    Path(here, "training").write_text(str(os.getpid()))
    if fault == "slow":
        time.sleep(600)
    elif fault.startswith("exit:"):
        os._exit(int(fault.removeprefix("exit:")))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", default="")
    parser.add_argument("--at", default="")
    args = parser.parse_args()
    flare.init()
    site = flare.get_site_name()
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        print(f"round {model.current_round} at {site}", flush=True)
        if args.fault and args.at in ("", site):
            misbehave(args.fault, os.getcwd())
        params = {NPConstants.NUMPY_KEY: np.asarray(model.params[NPConstants.NUMPY_KEY]) + 1.0}
        flare.send(
            flare.FLModel(
                params=params, params_type="FULL", metrics={"accuracy": 1.0}, current_round=model.current_round
            )
        )


if __name__ == "__main__":
    sys.exit(main())
