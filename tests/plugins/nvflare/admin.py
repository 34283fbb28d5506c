"""A FLARE admin in a process of its own: one JSON request a line on stdin, one JSON answer a line on stdout."""

import json
import os
import sys


def main(kit, user):
    """Log in, say so, and serve requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # FLARE prints
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    session = new_secure_session(user, kit, timeout=60.0)
    calls = {
        "submit": session.submit_job,
        "meta": session.get_job_meta,
        "abort": session.abort_job,
        "shutdown": session.shutdown,
        "resources": lambda: session.report_resources("all"),
        "info": lambda: [client.name for client in session.get_system_info().client_info],
    }
    print(json.dumps({"answer": "ready"}), file=answers, flush=True)
    for line in sys.stdin:
        name, *args = json.loads(line)
        try:
            answer = {"answer": calls[name](*args)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
