//! OCSP responses where a controller has the certificates: authority, responder and client are OpenSSL's.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use tombolo_tests::{Running, wait_until};

use crate::stage::{App, EDGE, SOON, Stage, route};

/// Runs `openssl`, and gives what it says.
fn openssl(dir: &Path, line: &str) -> String {
    let output = Command::new("openssl").args(line.split(' ')).current_dir(dir).stdin(Stdio::null()).output();
    let output = output.expect("openssl is not installed: apt-get install openssl");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// An authority and a certificate for `shop.example` that names this responder.
fn certificates(dir: &Path, responder: u16) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 30"));
    openssl(dir, &format!("req {key} -keyout leaf.key -out leaf.csr -subj /CN=shop.example"));
    let extensions = format!(
        "subjectAltName=DNS:shop.example\nauthorityInfoAccess=OCSP;URI:http://127.0.0.1:{responder}\n"
    );
    fs::write(dir.join("leaf.ext"), extensions).unwrap();
    let sign = "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -set_serial 0x1001 -days 20";
    openssl(dir, &format!("{sign} -extfile leaf.ext -out leaf.pem"));
    fs::write(dir.join("index"), "V\t491231235959Z\t\t1001\tunknown\t/CN=shop.example\n").unwrap();
}

fn staple(dir: &Path, to: SocketAddr) -> String {
    openssl(dir, &format!("s_client -connect {to} -servername shop.example -status -CAfile ca.pem"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_of_a_controller_staples_and_keeps_the_response_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let app = App::start("stable").await;
    let mut stage = Stage::start(&(EDGE.to_owned() + &app.documents())).await;
    let port = stage.address(91).port();
    certificates(dir.path(), port);
    let log = fs::File::create(dir.path().join("responder.log")).unwrap();
    let mut responder = Command::new("openssl");
    responder.args(["ocsp", "-index", "index", "-rsigner", "ca.pem", "-rkey", "ca.key", "-CA", "ca.pem"]);
    responder.args(["-nmin", "60", "-port", &port.to_string()]).current_dir(dir.path());
    let responder = Running::start(responder.stdout(log.try_clone().unwrap()).stderr(log));
    // It is asked by nobody else: it takes one connection after the other, and a silent one for ever.
    let says =
        || fs::read_to_string(dir.path().join("responder.log")).is_ok_and(|text| text.contains("waiting"));
    wait_until("the responder listens", SOON, says);

    let pem = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let data = serde_json::json!({ "tls.crt": pem("leaf.pem") + &pem("ca.pem"), "tls.key": pem("leaf.key") });
    let secret = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: edge, namespace: shop, annotations: {{ tombolo.dev/ocsp: fetch }} }}\n\
         type: kubernetes.io/tls\nstringData: {data}\n"
    );
    let https =
        "    - { name: https, protocol: HTTPS, port: 443, tls: { certificateRefs: [{ name: edge }] } }\n";
    stage.apply(&[EDGE, https, &route(&[("/", "stable")]), &secret].concat());
    let edge = stage.address(443);
    let is_stapled = || {
        let seen = staple(dir.path(), edge);
        seen.contains("Cert Status: good") && seen.contains("Verify return code: 0 (ok)")
    };
    wait_until("the response is stapled", SOON, is_stapled);
    let kept = stage.path("gateway").join("ocsp/shop_edge.der");
    wait_until("the response is kept", SOON, || kept.exists());

    drop(responder);
    stage.restart_gateway();
    wait_until("it is stapled again, with nobody to ask", SOON, is_stapled);
}
