"""A mail server that takes mail from those who log in over TLS.

    mail.py PORT MODE CERTIFICATE KEY USER PASSWORD FILE     MODE: starttls or implicit

FILE gets one JSON line for each mail: tls, user, from, to, lines. What comes in clear is refused.
"""
import base64
import json
import socket
import ssl
import sys
import threading

PORT, MODE, CERTIFICATE, KEY, USER, PASSWORD, FILE = sys.argv[1:]
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CONTEXT.load_cert_chain(CERTIFICATE, KEY)


def serve(connection):
    stream = connection.makefile("rwb", buffering=0)

    def say(text):
        stream.write(text.encode() + b"\r\n")

    def line():
        return stream.readline().decode().rstrip("\r\n")
    secure, user, mail = MODE == "implicit", None, {"to": []}
    say("220 ready")
    while True:
        words = line()
        verb = words.split(" ")[0].upper()
        if verb == "EHLO":
            say("250-mail.example.org")
            say("250 AUTH PLAIN" if secure else "250 STARTTLS")
        elif verb == "STARTTLS":
            say("220 go on")
            connection = CONTEXT.wrap_socket(connection, server_side=True)
            stream, secure = connection.makefile("rwb", buffering=0), True
        elif verb == "AUTH":
            given = base64.b64decode(words.split()[2]).decode().split("\0")
            user = given[1] if given[1:] == [USER, PASSWORD] else None
            say("235 welcome" if user else "535 wrong name or password")
        elif verb in ("MAIL", "RCPT", "DATA") and not (secure and user):
            say("530 log in first")
        elif verb == "MAIL":
            mail = {"tls": connection.version(), "user": user, "from": words, "to": []}
            say("250 ok")
        elif verb == "RCPT":
            mail["to"].append(words)
            say("250 ok")
        elif verb == "DATA":
            say("354 go on")
            mail["lines"] = list(iter(line, "."))
            with open(FILE, "a") as out:
                out.write(json.dumps(mail) + "\n")
            say("250 taken")
        elif verb == "QUIT" or not words:
            return say("221 bye")
        else:
            say("250 ok")


def attempt(connection):
    try:
        serve(CONTEXT.wrap_socket(connection, server_side=True) if MODE == "implicit" else connection)
    except (OSError, ValueError, IndexError):
        pass
    finally:
        connection.close()


with socket.create_server(("::", int(PORT)), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print("ready", flush=True)
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=attempt, args=(accepted,), daemon=True).start()
