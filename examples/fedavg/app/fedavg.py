"""Federated averaging of a logistic regression: ``python -m fedavg server`` or ``… client``.

From the site file come FED_SERVER (host:port) and DATA_FILE (the site's own rows, which never leave it), from
the job file CLIENTS, ROUNDS and EPOCHS. Messages are lines of JSON: nothing that a peer sends is executed.
"""

import csv
import json
import os
import socket
import sys
import time
from pathlib import Path

import numpy as np

SITE = os.environ.get("SITEWARD_SITE", "")
JOB = os.environ.get("SITEWARD_JOB_ID", "")
PATIENCE = float(os.environ.get("PATIENCE", "60"))  # seconds to wait for a peer
LONGEST_MESSAGE = 1 << 20
FAIL_RUN = 101  # siteward's EXCEPTION: whichever site fails, the whole run has failed
Array = np.ndarray


class FedavgError(Exception):
    """Why this site cannot go on, in words."""


class Peer:
    """The other end of a connection."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        connection.settimeout(PATIENCE)
        self.stream, self.name = connection.makefile("rwb"), name

    def send(self, **message: object) -> None:
        try:
            self.stream.write(json.dumps(message).encode() + b"\n")
            self.stream.flush()
        except OSError as error:
            raise FedavgError(f"lost {self.name}: {error}") from error

    def receive(self, *keys: str) -> dict:
        """Return the next message, which must have these keys."""
        try:
            line = self.stream.readline(LONGEST_MESSAGE)
        except OSError as error:
            raise FedavgError(f"lost {self.name}: {error} (it has {PATIENCE:g} s for an answer)") from error
        if not line:
            raise FedavgError(f"lost {self.name}: it closed the connection before the training was done")
        try:
            message = json.loads(line)
            return {key: message[key] for key in keys}
        except (ValueError, TypeError, KeyError) as error:
            raise FedavgError(f"{self.name} sent no JSON object with {', '.join(keys)}: {error!r}") from error


def accept_clients(count: int) -> list[Peer]:
    host, port = address()
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise FedavgError(f"cannot listen on {host}:{port}: {error}; change FED_SERVER") from error
    clients: dict[str, Peer] = {}
    deadline = time.monotonic() + PATIENCE
    print(f"waiting for {count} clients on {host}:{port}")
    with listener:
        while len(clients) < count:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                peer = Peer(listener.accept()[0], "a new client")
            except TimeoutError as error:
                raise FedavgError(f"{len(clients)} of {count} clients came within {PATIENCE:g} s") from error
            hello = peer.receive("site", "job")
            if hello["job"] != JOB:
                raise FedavgError(f"a client of another job, {hello['job']}, came; change FED_SERVER")
            peer.name = str(hello["site"])
            clients[peer.name] = peer
            print(f"{peer.name} is here")
    return [clients[name] for name in sorted(clients)]


def find_server() -> Peer:
    """Connect to the server; clients may start before it, so try again for a while."""
    host, port = address()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return Peer(socket.create_connection((host, port), timeout=5), "the server")
        except OSError as error:
            if time.monotonic() > deadline:
                raise FedavgError(f"cannot reach the server at {host}:{port}: {error}") from error
            time.sleep(0.1)


def address() -> tuple[str, int]:
    host, _, port = os.environ.get("FED_SERVER", "").rpartition(":")
    if not host or not port.isdecimal():
        raise FedavgError("FED_SERVER is not host:port; set it under env in the site file")
    return host, int(port)


def read_data() -> tuple[Array, Array]:
    """Return the site's measures, one row a tumour, and 1.0 for each malignant one."""
    path = Path(os.environ.get("DATA_FILE", "(DATA_FILE is not set)"))
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        malignant = [float(row.pop("diagnosis") == "M") for row in rows]
        return np.array([list(map(float, row.values())) for row in rows]), np.array(malignant)
    except (OSError, ValueError, KeyError) as error:
        raise FedavgError(f"cannot read {path} (DATA_FILE): {type(error).__name__}: {error}") from error


def probabilities(weights: Array, measures: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(measures @ weights[1:] + weights[0], -30, 30)))


def assess(weights: Array, measures: Array, malignant: Array) -> dict[str, float]:
    guess = probabilities(weights, measures)
    loss = -np.mean(malignant * np.log(guess) + (1 - malignant) * np.log(1 - guess))
    return {"accuracy": float(np.mean((guess > 0.5) == malignant)), "loss": float(loss)}


def train(weights: Array, measures: Array, malignant: Array, epochs: int, seed: int) -> Array:
    """Return the weights after some epochs of stochastic gradient descent in batches of about 32."""
    order, weights = np.random.default_rng(seed), weights.copy()
    for _ in range(epochs):
        for batch in np.array_split(order.permutation(len(malignant)), max(1, len(malignant) // 32)):
            error = probabilities(weights, measures[batch]) - malignant[batch]
            weights[0] -= 0.1 * error.mean()
            weights[1:] -= 0.1 * (measures[batch].T @ error / len(batch) + 0.001 * weights[1:])
    return weights


def serve() -> None:
    measures, malignant = read_data()
    rounds = int(os.environ.get("ROUNDS", "10"))
    clients = accept_clients(int(os.environ.get("CLIENTS", "2")))
    # Sums are enough to put all sites' measures on one scale: no row leaves its site.
    parts = [client.receive("count", "sum", "squares") for client in clients]
    counts = [part["count"] for part in parts]
    mean = sum(np.array(part["sum"]) for part in parts) / sum(counts)
    scale = np.sqrt(sum(np.array(part["squares"]) for part in parts) / sum(counts) - mean**2)
    measures, weights, history = (measures - mean) / scale, np.zeros(len(mean) + 1), []
    for client in clients:
        client.send(mean=mean.tolist(), scale=scale.tolist(), rounds=rounds, weights=weights.tolist())
    for number in range(1, rounds + 1):
        replies = [client.receive("weights")["weights"] for client in clients]
        weights = np.average(replies, axis=0, weights=counts)
        for client in clients:
            client.send(weights=weights.tolist())
        history.append({"round": number, **(found := assess(weights, measures, malignant))})
        print(f"round {number:2}/{rounds}: accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}")
    trained = {client.name: count for client, count in zip(clients, counts, strict=True)}
    accuracy, tested = history[-1]["accuracy"], len(malignant)
    write("metrics.json", {"accuracy": accuracy, "tested": tested, "trained": trained, "rounds": history})
    write("model.json", {"weights": weights.tolist(), "mean": mean.tolist(), "scale": scale.tolist()})
    plot([each["round"] for each in history], [each["accuracy"] for each in history])
    print(f"accuracy {accuracy:.4f} on {tested} tumours that no client has seen")


def train_at_client() -> None:
    measures, malignant = read_data()
    epochs, server, history = int(os.environ.get("EPOCHS", "3")), find_server(), []
    server.send(site=SITE, job=JOB)
    sums, squares = measures.sum(axis=0), (measures**2).sum(axis=0)
    server.send(count=len(measures), sum=sums.tolist(), squares=squares.tolist())
    plan = server.receive("mean", "scale", "rounds", "weights")
    measures, weights = (measures - plan["mean"]) / plan["scale"], np.array(plan["weights"])
    for number in range(1, plan["rounds"] + 1):
        server.send(weights=train(weights, measures, malignant, epochs, seed=number).tolist())
        weights = np.array(server.receive("weights")["weights"])
        history.append({"round": number, **assess(weights, measures, malignant)})
    accuracy, trained = history[-1]["accuracy"], len(malignant)
    write("metrics.json", {"accuracy": accuracy, "trained": trained, "rounds": history})
    print(f"accuracy {accuracy:.4f} of the shared model on this site's own {trained} tumours")


def plot(rounds: list[int], accuracies: list[float]) -> None:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.plot(rounds, accuracies, marker="o")
    axes.set(title="Federated averaging, two clients", xlabel="round", ylabel="accuracy on the test set")
    axes.grid(alpha=0.3)
    axes.figure.savefig("accuracy.png", dpi=120)


def write(name: str, content: dict) -> None:
    Path(name).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    try:
        {"server": serve, "client": train_at_client}[sys.argv[1]]()
    except FedavgError as failure:
        print(f"fedavg: {failure}", file=sys.stderr)
        sys.exit(FAIL_RUN)
