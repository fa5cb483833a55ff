"""ASTF: small HTTP requests, each on a TCP connection of its own, client and server both played by TRex.

    --method nat    servers answer to the balancer that sent them the request
    --method dr     servers answer to the MAC configured for their port, past the balancer
    --rport N       port of the real servers: what the balancer translates to (nat), the service's own (dr)
    --rounds N      requests on a connection; --think MS between two of them: more connections at a time
"""
import argparse

from trex.astf.api import (ASTFAssociationRule, ASTFGlobalInfo, ASTFIPGen, ASTFIPGenDist, ASTFIPGenGlobal, ASTFProfile, ASTFProgram,
                           ASTFTCPClientTemplate, ASTFTCPServerTemplate, ASTFTemplate)

# No reset to what belongs to no connection: one that crosses a loop would be answered for ever.
NEVER_RESET = 2


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("nat", "dr"), default="nat")
    parser.add_argument("--vip", default="10.1.0.100")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--rport", type=int, help="default: 8080 (nat), the service's (dr)")
    parser.add_argument("--client", default="16.0.0.1", help="first client address")
    parser.add_argument("--last-client", default="16.0.15.254")
    parser.add_argument("--body", type=int, default=128, help="bytes of an answer's body")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--think", type=int, default=0)
    return parser


class Http:
    def get_profile(self, tunables=(), **kwargs):
        options = arguments().parse_args(tunables)
        request = f"GET / HTTP/1.1\r\nHost: {options.vip}\r\n\r\n".encode()
        answer = f"HTTP/1.1 200 OK\r\nContent-Length: {options.body}\r\n\r\n".encode() + options.body * b"r"
        client, server = ASTFProgram(), ASTFProgram()
        for turn in range(options.rounds):
            if turn and options.think:
                client.delay(1000 * options.think)
            client.send(request)
            client.recv(len(answer), True)
            server.recv(len(request), True)
            server.send(answer)
        addresses = ASTFIPGen(glob=ASTFIPGenGlobal(ip_offset="0.0.0.0"),
                              dist_client=ASTFIPGenDist(ip_range=[options.client, options.last_client], distribution="seq"),
                              dist_server=ASTFIPGenDist(ip_range=[options.vip, options.vip], distribution="seq"))
        sides = {"client": ASTFGlobalInfo(), "server": ASTFGlobalInfo()}
        for side in sides.values():
            side.tcp.blackhole = NEVER_RESET
        if options.method == "dr":
            sides["server"].ip.dont_use_inbound_mac = 1
        rport = options.rport or (8080 if options.method == "nat" else options.port)
        template = ASTFTemplate(
            client_template=ASTFTCPClientTemplate(program=client, ip_gen=addresses, port=options.port, cps=1),
            server_template=ASTFTCPServerTemplate(program=server, assoc=ASTFAssociationRule(port=rport)))
        return ASTFProfile(default_ip_gen=addresses, templates=template, default_c_glob_info=sides["client"],
                           default_s_glob_info=sides["server"])


def register():
    return Http()
