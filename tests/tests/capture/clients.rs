//! Real clients and servers of gRPC, HTTP/2 and protocols in which the server speaks first, unmodified, through captured
//! connections. Takes Python's grpcio and Node.

use std::fs;

use tombolo_tests::wait_until;

use crate::world::{LONG, World};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: echo, namespace: shop }
spec:
  selector: { app: server }
  ports:
    - { name: grpc, port: 9090, targetPort: 9090 }
    - { name: found, port: 9091, targetPort: 9090 }
    - { name: node, port: 9092, targetPort: 9092 }
    - { name: first, port: 3306, targetPort: talk }
";

/// A server of gRPC calls of every kind. No generated code: messages are bytes.
const GRPC_SERVER: &str = r#"
import grpc
from concurrent import futures
def unary(request, context):
    context.set_trailing_metadata((("x-left", "7"), ("x-raw-bin", b"\x00\xff")))
    if request == b"fail": context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more: 100% \u00e9")
    caller = dict(context.invocation_metadata()).get("x-forwarded-client-cert", "")
    return request + b" from " + caller.encode()
def pour(request, context):
    for n in range(int(request)): yield b"%d" % n
    context.set_trailing_metadata((("x-poured", request.decode()),))
def gather(requests, context): return b"+".join(requests)
def talk(requests, context):
    for request in requests: yield b"you said " + request
handlers = grpc.method_handlers_generic_handler("test.Echo", {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Pour": grpc.unary_stream_rpc_method_handler(pour),
    "Gather": grpc.stream_unary_rpc_method_handler(gather),
    "Talk": grpc.stream_stream_rpc_method_handler(talk)})
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((handlers,))
server.add_insecure_port("0.0.0.0:9090")
server.start()
server.wait_for_termination()
"#;

/// Makes every kind of call; says `all is well` at the end.
const GRPC_CLIENT: &str = r#"
import grpc, queue, sys
CALLER = b"URI=spiffe://east.test/ns/shop/sa/client"
channel = grpc.insecure_channel("echo.shop.svc.cluster.local:" + sys.argv[1])
grpc.channel_ready_future(channel).result(30)
unary = channel.unary_unary("/test.Echo/Unary")
reply, call = unary.with_call(b"hidden-grpc-marker", timeout=20)
assert reply.startswith(b"hidden-grpc-marker from ") and reply.endswith(b";" + CALLER), reply
trailers = dict(call.trailing_metadata())
assert (trailers["x-left"], trailers["x-raw-bin"]) == ("7", b"\x00\xff"), trailers
try:
    unary(b"fail", timeout=20)
    raise AssertionError("it did not fail")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
    assert error.details() == "no more: 100% \u00e9", error.details()
    assert dict(error.trailing_metadata())["x-left"] == "7"
try:
    channel.unary_unary("/test.Echo/Nothing")(b"", timeout=20)
    raise AssertionError("there is no such method")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
poured = channel.unary_stream("/test.Echo/Pour")(b"1000", timeout=20)
assert [int(message) for message in poured] == list(range(1000))
assert dict(poured.trailing_metadata())["x-poured"] == "1000"
big = [bytes([n]) * 100_000 for n in range(30)]
gather = channel.stream_unary("/test.Echo/Gather")
assert gather(iter(big), timeout=20) == b"+".join(big)
# Each message is answered before the next one is sent: nothing on the way may wait for more.
said = queue.Queue()
replies = channel.stream_stream("/test.Echo/Talk")(iter(said.get, None), timeout=20)
for n in range(50):
    said.put(b"%d" % n)
    assert next(replies) == b"you said %d" % n
said.put(None)
assert list(replies) == [] and replies.code() == grpc.StatusCode.OK
try:
    slow = channel.stream_stream("/test.Echo/Talk")(iter(queue.Queue().get, None), timeout=0.5)
    list(slow)
    raise AssertionError("it has a deadline")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
print("all is well")
sys.stdout.flush()
# Its threads may wait for messages that never come.
import os; os._exit(0)
"#;

/// Speaks HTTP/2 with prior knowledge alone.
const NODE_SERVER: &str = r#"
require("http2").createServer((request, response) => {
  let length = 0;
  request.on("data", (part) => { length += part.length; });
  request.on("end", () => {
    response.setHeader("x-length", length);
    response.end(`${request.httpVersion} ${request.method} ${request.url} ${request.headers["x-forwarded-client-cert"]}`);
  });
}).listen(9092, "0.0.0.0");
"#;

/// fetch over HTTP/1.1, then twenty streams of one HTTP/2 session at a time.
const NODE_CLIENT: &str = r#"
const http2 = require("http2"), assert = require("assert");
const caller = "By=spiffe://east.test/ns/shop/sa/server;URI=spiffe://east.test/ns/shop/sa/client";
(async () => {
  for (let n = 0; n < 5; n++) {
    const reply = await fetch("http://server.shop.svc.cluster.local/hidden-node-marker");
    const body = await reply.text();
    assert(reply.status === 200 && body.includes("GET /hidden-node-marker") && body.includes(caller), body);
  }
  const session = http2.connect("http://echo.shop.svc.cluster.local:9092");
  const ask = (n) => new Promise((done, failed) => {
    const stream = session.request({ ":method": "POST", ":path": `/${n}` });
    let body = "", head;
    stream.on("response", (headers) => { head = headers; });
    stream.on("data", (part) => { body += part; });
    stream.on("end", () => done([head[":status"], head["x-length"], body]));
    stream.on("error", failed);
    stream.end("x".repeat(n * 10000));
  });
  const replies = await Promise.all([...Array(20).keys()].map(ask));
  replies.forEach(([status, length, body], n) => {
    assert.deepStrictEqual([status, length, body], [200, String(n * 10000), `2.0 POST /${n} ${caller}`]);
  });
  session.close();
  console.log("all is well");
})().catch((error) => { console.error(error); process.exit(1); });
"#;

/// Connects until it is greeted at once: prints the least time in milliseconds of 20.
const GREETED: &str = "
import socket, time
def once():
    begun = time.monotonic()
    with socket.create_connection(('echo.shop.svc.cluster.local', 3306), 20) as s: assert s.recv(100)
    return (time.monotonic() - begun) * 1000
print(min(once() for _ in range(20)))";

#[test]
fn grpc_node_and_servers_that_speak_first() {
    let Some(mut world) = World::new() else { return };
    world.apply(SERVICE);
    world.ports.extend(["9090", "9092"]);
    world.program("server", "python3", "grpc-server.py", GRPC_SERVER, &[]);
    world.program("server", "node", "node-server.js", NODE_SERVER, &[]);
    world.captured(&[], &[], &[]);
    let frames = world.watch("server");

    let client = world.path("grpc-client.py");
    fs::write(&client, GRPC_CLIENT).unwrap();
    // Where the port's name says gRPC, and where HTTP/2 is found out from its first bytes.
    for port in ["9090", "9091"] {
        let said = world.net.text("client", &["python3", client.to_str().unwrap(), port]);
        assert!(said.contains("all is well"), "{said}");
    }
    for (path, status) in [("/test.Echo/Unary", 200), ("/test.Echo/Talk", 200)] {
        world.logged("server", |line| {
            line["path"] == path && line["status"] == status && line["protocol"] == "HTTP/2"
        });
    }
    let client = world.path("client.js");
    fs::write(&client, NODE_CLIENT).unwrap();
    let said = world.net.text("client", &["node", client.to_str().unwrap()]);
    assert!(said.contains("all is well"), "{said}");

    // On MySQL's port nothing is waited for.
    let least = world.net.text("client", &["python3", "-c", GREETED]);
    assert!(least.trim().parse::<f64>().unwrap() < 90.0, "{least} ms to be greeted");
    for marker in ["hidden-grpc", "hidden-node"] {
        assert!(!crate::world::contains(&frames, marker), "{marker} crossed the wire in plaintext");
    }
    wait_until("lines of HTTP/2 found out", LONG, || {
        !world.lines("client", |line| line["endpoint"] == "east.test/shop/server/9092").is_empty()
    });
}
