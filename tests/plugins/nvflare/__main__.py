"""The demonstration: a FLARE federation in a temporary place, its jobs through siteward, and nothing left of it."""

import tempfile

from .federation import Federation


def main():
    """Prepare, install, run, show who ran what, clean up."""
    with tempfile.TemporaryDirectory(prefix="siteward-nvflare-") as folder:
        federation = Federation(f"{folder}/federation")
        try:
            print("NVIDIA FLARE makes startup kits for a server and two clients …")
            federation.prepare()
            for name in federation.names:
                print(federation.install(name).strip())
            print("The server and the clients start …")
            federation.start()
            job_id = federation.submit("fedavg-numpy", rounds=2)
            print(f"Job {job_id}: federated averaging with numpy, 2 rounds …")
            status = federation.finish(job_id, 300)
            print(f"Job {job_id}: {status}\n")
            for name in federation.names:
                for row in federation.siteward(name, "ps", "--all"):
                    took = row["ended_at"] - row["started_at"]
                    print(f"{name:8} ran it on backend {row['backend']}: {row['state']} in {took:.1f} s")
        finally:
            federation.close()
    print("\nEverything is ended and removed.")
    return 0 if status == "FINISHED:COMPLETED" else 1


if __name__ == "__main__":
    raise SystemExit(main())
