"""What is asked of the contestants."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    path: str = "/small"
    connections: int = 64
    streams: int = 1
    http2: bool = False
    grpc: bool = False
    tls: bool = False
    workers: int = 1
    rounds: int = 3
    instructions: bool = True
    # Fixed rates beside half of the slowest contestant's saturation, requests a second.
    rates: tuple = ()

    @property
    def origin(self):
        """Which origin a contestant of layer 7 forwards to."""
        return "grpc" if self.grpc else "http1"

    @property
    def same_protocol_origin(self):
        """Which origin stands in for a proxy that changes nothing."""
        return "grpc" if self.grpc else "http2" if self.http2 else "tls" if self.tls else "http1"


SCENARIOS = {
    scenario.name: scenario
    for scenario in [
        Scenario("h1-small", "HTTP/1.1, 240-byte answer", rounds=9, rates=(5000,)),
        Scenario("h1-10k", "HTTP/1.1, 10 KiB", path="/10k"),
        Scenario("h1-1m", "HTTP/1.1, 1 MiB", path="/1m", connections=16, instructions=False),
        Scenario("h2", "HTTP/2 (clear) to HTTP/1.1, 240-byte answer", connections=16, streams=4, http2=True),
        Scenario("grpc", "gRPC unary, HTTP/2 on both sides", connections=16, streams=4, http2=True, grpc=True),
        Scenario("tls", "HTTP/1.1 under TLS 1.3, 240-byte answer", tls=True),
        Scenario("h1-small-2w", "HTTP/1.1, 240-byte answer, two workers on both cores, which load and origin share",
                 workers=2, instructions=False),
    ]
}
MEMORY = "memory"
SLOW = "slow-endpoint"
