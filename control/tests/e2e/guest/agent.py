"""Process 1 of the emulated host: runs the shell scripts that come over the virtio-serial port "agent".

A request is a line {"id", "script", "seconds"}; the answer is a line {"id", "status", "output"}.
"""
import json
import os
import signal
import subprocess
import time


def find_port():
    while True:
        for entry in os.scandir("/sys/class/virtio-ports"):
            with open(f"{entry.path}/name") as name:
                if name.read().strip() == "agent":
                    return f"/dev/{entry.name}"
        time.sleep(0.05)


def execute(request):
    # A background program of the script must not keep the answer waiting: output goes to a file.
    path = f"/tmp/agent.{request['id']}"
    with open(path, "wb") as out:
        process = subprocess.Popen(["/bin/sh", "-ec", request["script"]], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   start_new_session=True)
        try:
            status = process.wait(request["seconds"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    with open(path, errors="replace") as out:
        return {"id": request["id"], "status": status, "output": out.read()[-200_000:]}


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"])
    port = open(find_port(), "r+b", buffering=0)

    def send(message):
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[port.write(data):]
    send({"ready": os.uname().release})
    pending = b""
    while True:
        data = port.read(65536)
        if not data:
            time.sleep(0.05)
            continue
        pending += data
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            send(execute(json.loads(line)))


main()
