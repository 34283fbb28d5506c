"""A receiver of webhooks: a real HTTPS server whose answers, and whose absences, a test decides."""

import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trustme


class Receiver:
    """Listens on a port that stays its own while it is down; ``got`` has the records that came, in order."""

    def __init__(self, folder):
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self._context)
        self.got, self.headers, self.paths, self.answers = [], [], [], []
        self.arrived = threading.Condition()
        self.gate = threading.Event()
        self.gate.set()
        self._server = None
        self.port = 0

    @property
    def url(self):
        return f"https://localhost:{self.port}/hooks/very-secret-path?key=also-secret"

    def start(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.gate.wait(60)
                status = receiver.take(self.path, dict(self.headers), json.loads(body))
                self.send_response(status)
                if status in (301, 307):
                    self.send_header("Location", "https://localhost:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False
            allow_reuse_address = True

            def get_request(self):
                connection, address = super().get_request()
                connection.settimeout(60)
                return receiver._context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                ), address

            def handle_error(self, *_):
                pass

        self._server = Server(("localhost", self.port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self):
        """Go away; the port is not listened on until the next start."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def take(self, path, headers, record):
        with self.arrived:
            status = self.answers.pop(0) if self.answers else 204
            self.paths.append(path)
            self.headers.append(headers)
            self.got.append((status, record))
            self.arrived.notify_all()
            return status

    def wait_for(self, count, timeout=60):
        """Wait until so many requests have come; return their records with the answers."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.got) >= count, timeout), f"only {len(self.got)} came"
            return list(self.got)


@contextmanager
def receiving(folder):
    """Have a receiver that is up."""
    receiver = Receiver(folder)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.gate.set()
        receiver.stop()
