"""An HTTPS server that shows a certificate by the server name it is asked for.

    tls.py PORT DIRECTORY NAME... [--ask]

DIRECTORY holds NAME.pem and NAME.key; the first name is shown to those who ask for none, or for another. Every
answer says which name was asked for: "hello NAME\\n", or 404 for any path but / and /more. With --ask the client
has to show a certificate of ca.pem in DIRECTORY.
"""
import socket
import ssl
import sys
import threading


def context(directory, name, ask):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if ask:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(f"{directory}/ca.pem")
    made.load_cert_chain(f"{directory}/{name}.pem", f"{directory}/{name}.key")
    return made


def serve(connection, default, names):
    asked = []
    try:
        connection.settimeout(10)
        with default.wrap_socket(connection, server_side=True) as stream:
            asked.append(names.pop(stream, "nobody"))
            request = b""
            while b"\r\n\r\n" not in request:
                more = stream.recv(4096)
                if not more:
                    return
                request += more
            path, version = request.split()[1:3]
            status = b"200 OK" if path in (b"/", b"/more") else b"404 Not Found"
            body = b"hello " + asked[0].encode() + b"\n"
            stream.sendall(version + b" " + status + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
            stream.unwrap()
    except OSError:
        pass
    finally:
        connection.close()


def main():
    ask = sys.argv[-1] == "--ask"
    port, directory, names = int(sys.argv[1]), sys.argv[2], sys.argv[3:-1] if ask else sys.argv[3:]
    contexts = {name: context(directory, name, ask) for name in names}
    default, asked = contexts[names[0]], {}

    def choose(stream, name, _):
        asked[stream] = name or "nobody"
        stream.context = contexts.get(name, default)
    default.sni_callback = choose
    listener = socket.create_server(("0.0.0.0", port), backlog=64)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, default, asked), daemon=True).start()


main()
