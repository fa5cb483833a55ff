"""In the place of a new rvsd: says that it is prepared, takes the ports and then fails.

    impostor.py die | hang          (what it does when it has the ports)
    impostor.py records VERSION     (what records of connections it wants; it gets none)
"""
import json
import os
import socket
import sys
import time

end = socket.socket(fileno=os.dup(0))


def receive():
    def exactly(count):
        data = b""
        while len(data) < count:
            part, _, _, _ = socket.recv_fds(end, count - len(data), 64)
            if not part:
                sys.exit(1)
            data += part
        return data
    return json.loads(exactly(int.from_bytes(exactly(4), "big")))


def send(message):
    body = json.dumps(message).encode()
    end.sendall(len(body).to_bytes(4, "big") + body)


receive()
prepared = {"version": "9.9.9", "commit": "none"}
if sys.argv[1] == "records":
    prepared |= {"wants_records": True, "records": int(sys.argv[2])}
send({"Prepared": prepared})
receive()
if sys.argv[1] == "hang":
    time.sleep(600)
