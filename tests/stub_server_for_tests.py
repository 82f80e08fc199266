"""A server that gives fixed answers, to meet a client with what a good server never says."""

import contextlib
import http.server
import json
import threading

SIGNATURE = {"inputs": {"image_bytes": {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "-1"}]}}}}
READY = {
    "": (200, {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}),
    "/metadata": (200, {"metadata": {"signature_def": {"signature_def": {"serving_default": SIGNATURE}}}}),
}


@contextlib.contextmanager
def stub(answers, keeps=True):
    """A server with these answers, {place behind the model's name: (status, JSON value or bytes)}; its address.

    keeps False: it hangs up after each answer without saying so, as servers do with connections that are idle.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status, content = answers[self.path.removeprefix("/v1/models/segmentation")]
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = not keeps

        def do_POST(self):
            if keeps:
                self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
