"""A headless Chromium uploads a file to a daemon, from a page of another origin.

browser.py CHROMIUM URL FOLDER: URL is that of a write ticket; prints what the page says at the end.
"""

import http.server
import subprocess
import sys
import threading

chromium, url, folder = sys.argv[1:]
PAGE = """<!doctype html><title>upload</title><body><script>
(async () => {
  const size = 5 << 20, piece = 1 << 20, bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = i * 7 + (i >> 12);
  const file = new File([bytes], "disk.raw");
  try {
    for (let at = 0; at < size; at += piece) {
      const last = at + piece >= size;
      const answer = await fetch(URL_HERE + (last ? "?close=y" : "?flush=n"), {
        method: "PUT", body: file.slice(at, at + piece),
        headers: {"Content-Range": `bytes ${at}-${at + piece - 1}/${size}`, "Cache-Control": "no-cache"},
      });
      if (!answer.ok) throw new Error("status " + answer.status);
    }
    const read = await fetch(URL_HERE);
    const found = new Uint8Array(await read.arrayBuffer());
    for (let i = 0; i < size; i++) if (found[i] !== bytes[i]) throw new Error("byte " + i);
    document.title = "uploaded and the same";
  } catch (error) { document.title = "failed: " + error; }
  await fetch("/done", {method: "POST", body: document.title});
})();
</script>""".replace("URL_HERE", repr(url))
done = threading.Event()
said = []


class Origin(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def do_POST(self):
        said.append(self.rfile.read(int(self.headers["content-length"])).decode())
        self.send_response(200)
        self.end_headers()
        done.set()

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
threading.Thread(target=server.serve_forever, daemon=True).start()
browser = subprocess.Popen(
    [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
     # the test's CA is not in the browser's store; CORS is what is tried
     "--ignore-certificate-errors", f"--user-data-dir={folder}", f"http://127.0.0.1:{server.server_port}/"],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
done.wait(60)
browser.kill()
browser.wait()
print(said[0] if said else "the browser said nothing")
