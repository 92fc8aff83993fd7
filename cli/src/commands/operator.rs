//! The connection to the controller's operator socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tombolo_proto::v1::operator_client;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::failure::Failure;

/// What the generated code calls it.
pub type OperatorClient = operator_client::OperatorClient<Channel>;

/// Which controller a command talks to.
#[derive(clap::Args, Debug, Clone)]
pub struct ControllerSocket {
    /// The controller's operator socket
    #[arg(long, env = "TOMBOLO_CONTROLLER_SOCKET", value_name = "PATH")]
    controller_socket: Option<PathBuf>,
    /// The controller's state directory, in which the socket lies
    #[arg(
        long,
        env = "TOMBOLO_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/tombolo/controller"
    )]
    state_dir: PathBuf,
}

impl ControllerSocket {
    /// Connects, or says what to do.
    pub async fn connect(&self) -> Result<OperatorClient, Failure> {
        let path = self.controller_socket.clone().unwrap_or_else(|| self.state_dir.join("controller.sock"));
        let shown = path.display().to_string();
        // The address is not used: the connector goes to the socket.
        let endpoint = Endpoint::from_static("http://controller.invalid");
        let dial = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let channel = endpoint.connect_with_connector(dial).await.map_err(|error| {
            Failure::new(format!(
                "cannot reach the controller at {shown}: {}; is it running on this machine, and is --state-dir its own?",
                root_cause(&error)
            ))
        })?;
        Ok(OperatorClient::new(channel)
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20))
    }
}

/// Tonic wraps the reason several times; people want the innermost.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A refusal by the controller, in its own words.
pub fn refused(status: tonic::Status) -> Failure {
    Failure::new(status.message())
}

/// A connection to the controller with this state directory.
pub async fn operator_in(state_dir: &Path) -> Result<OperatorClient, Failure> {
    ControllerSocket { controller_socket: None, state_dir: state_dir.to_owned() }.connect().await
}
