"""Process 1 of the emulated host: carries out what comes over the virtio-serial port "agent".

Each request is a line of JSON with an "id" and "seconds", and has one line of answer with the same "id":

    {"script": TEXT}                a shell script                  {"status", "output"}
    {"calls": [[WORD...]...],       programs, one after another     {"results": [[status, output]...]}
     "stdin": TEXT}
    {"write": [[PATH, TEXT]...],    files, in this order            {"files": [TEXT...]}
     "files": [PATH...]}
    {"tell": NAME, "argv": [...],   a line to a program that stays  {"output", "ended"}
     "text": TEXT, "until": TEXT}   (started when it is not there), its output up to `until`

Starting a program costs a tenth of a second and more here; only the first two do it each time.
"""
import json
import os
import signal
import subprocess
import time

staying = {}


def find_port():
    while True:
        for entry in os.scandir("/sys/class/virtio-ports"):
            with open(f"{entry.path}/name") as name:
                if name.read().strip() == "agent":
                    return f"/dev/{entry.name}"
        time.sleep(0.05)


def execute(request, argv):
    # A background program of a script must not keep the answer waiting: output goes to a file.
    path = f"/tmp/agent.{request['id']}"
    with open(path, "wb") as out, open(path + ".in", "wb+") as stdin:
        stdin.write(request.get("stdin", "").encode())
        stdin.seek(0)
        process = subprocess.Popen(argv, stdin=stdin, stdout=out, stderr=out, start_new_session=True)
        try:
            status = process.wait(request["seconds"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    with open(path, errors="replace") as out:
        text = out.read()[-200_000:]
    os.unlink(path)
    os.unlink(path + ".in")
    return status, text


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def tell(request):
    program = staying.get(request["tell"])
    if program is None:
        program = subprocess.Popen(request["argv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        staying[request["tell"]] = program
    program.stdin.write(request["text"].encode())
    output, until, ended = b"", request["until"].encode(), False
    while until not in output and not ended:
        data = program.stdout.read(65536)
        output += data
        ended = not data
    if ended:
        program.wait()
        del staying[request["tell"]]
    return {"output": output.decode(errors="replace"), "ended": ended}


def answer(request):
    if "calls" in request:
        return {"results": [execute(request, argv) for argv in request["calls"]]}
    if "files" in request:
        for path, text in request.get("write", ()):
            write(path, text)
        return {"files": [read(path) for path in request["files"]]}
    if "tell" in request:
        return tell(request)
    status, output = execute(request, ["/bin/sh", "-ec", request["script"]])
    return {"status": status, "output": output}


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
            request = json.loads(line)
            try:
                result = answer(request)
            except OSError as error:
                result = {"status": -1, "output": str(error), "error": str(error)}
            send({"id": request["id"]} | result)


main()
