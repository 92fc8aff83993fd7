//! Keeping the links open that this side opens: one task for each peer whose token was used here.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tombolo_core::{
    member::random_seed,
    model::{SpiffeId, TrustDomain},
    tls::{self, grpc},
};
use tombolo_proto::v1::peering_client::PeeringClient;

use super::{
    LIMIT, MAX_MESSAGE, QUEUE,
    link::{End, Link},
};
use crate::{running::stopped, state::State};

/// Between tries to reach a peer: the first pause, doubled each time up to the last, each shortened by chance by up to
/// half.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// A dialled peer's task; it ends when this is dropped.
struct Dialling {
    addresses: Vec<String>,
    task: AbortHandle,
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps a task for each peer that is to be dialled, until `stop`: idempotent, at each change of peers. The task of one
/// that is to be dialled no more has a last word to say yet, and ends by itself.
pub(super) async fn keep_links(state: Arc<State>, mut stop: watch::Receiver<bool>) {
    let (mut tasks, mut running): (HashMap<Arc<str>, Dialling>, _) = (HashMap::new(), JoinSet::new());
    let mut peers = state.peers();
    loop {
        peers.borrow_and_update();
        let wanted: HashMap<Arc<str>, Vec<String>> = state.with_index(|index| {
            let ours = index.peers().filter(|(_, peer)| peer.is_to_dial());
            ours.map(|(name, peer)| (Arc::clone(name), peer.identity.addresses.clone())).collect()
        });
        tasks.retain(|cluster, dialling| {
            !dialling.task.is_finished() && wanted.get(cluster).is_none_or(|a| *a == dialling.addresses)
        });
        for (cluster, addresses) in wanted {
            tasks.entry(cluster).or_insert_with_key(|cluster| {
                let task = running.spawn(dial(Arc::clone(&state), Arc::clone(cluster), stop.clone()));
                Dialling { addresses, task }
            });
        }
        tokio::select! {
            changed = peers.changed() => if changed.is_err() { return },
            // Linked anew in the meantime, it needs another one.
            Some(_) = running.join_next() => {}
            () = stopped(&mut stop) => break,
        }
    }
    // Each hears of the stop itself.
    let all = async { while running.join_next().await.is_some() {} };
    let _ended = timeout(Duration::from_secs(1), all).await;
}

/// Opens a link, again and again, until the peer is none any more; one that was revoked has to be told.
async fn dial(state: Arc<State>, cluster: Arc<str>, mut stop: watch::Receiver<bool>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let (used, end) = open(&state, &cluster, stop.clone()).await;
        let reason = match end {
            End::Over | End::Left => return,
            End::Broken(reason) => reason,
        };
        if used {
            pause = FIRST_PAUSE;
            tracing::warn!(%cluster, reason, "the link is down");
        } else {
            tracing::debug!(%cluster, reason, "there is no link");
            state.link_stats(&cluster).tried(Some(explained(reason)));
        }
        let part = (random_seed() % 1000) as f64 / 2000.0;
        tokio::select! {
            () = sleep(pause.mul_f64(0.5 + part)) => {}
            () = stopped(&mut stop) => return,
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn open(state: &Arc<State>, cluster: &Arc<str>, mut stop: watch::Receiver<bool>) -> (bool, End) {
    let known = state.with_index(|index| {
        let peer = index.peer(cluster).filter(|peer| peer.is_to_dial())?;
        Some((peer.identity.trust_domain.clone(), peer.identity.addresses.clone()))
    });
    let Some((trust_domain, addresses)) = known else { return (false, End::Over) };
    let channel = tokio::select! {
        channel = connect(state, &trust_domain, &addresses) => channel,
        () = stopped(&mut stop) => return (false, End::Over),
    };
    let mut client = match channel {
        Ok(client) => client,
        Err(reason) => return (false, End::Broken(reason)),
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let messages = ReceiverStream::new(receiver).filter_map(Result::ok);
    let answer = match timeout(LIMIT, client.link(messages)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => {
            let causes = std::error::Error::source(&status).map(grpc::causes);
            return (false, End::Broken(causes.unwrap_or_else(|| status.message().to_owned())));
        }
        Err(_) => return (false, End::Broken("no answer".into())),
    };
    state.link_stats(cluster).tried(None);
    Link::new(Arc::clone(state), Arc::clone(cluster), sender).run(answer, stop).await
}

/// Which of two it is that has to be linked anew, where trying again does not help. Of the errors of TLS only their texts
/// come through: `UnknownIssuer` of this side's verifier, `UnknownCA` the alert of the other side's.
fn explained(reason: String) -> String {
    let whose = if reason.contains("UnknownIssuer") {
        "this side does not know the peer's root any more"
    } else if reason.contains("UnknownCA") {
        "the peer does not know this side's root any more"
    } else {
        return reason;
    };
    format!(
        "{whose}: one was away while the other's was replaced twice. Link them anew: `tombolo peer token` on the side whose \
         root was replaced, `tombolo peer join` on the other ({reason})"
    )
}

async fn connect(
    state: &State,
    trust_domain: &TrustDomain,
    addresses: &[String],
) -> Result<PeeringClient<tonic::transport::Channel>, String> {
    let expected = SpiffeId::controller(trust_domain);
    let config = tls::mesh_client(state.credentials(), state.trust(), expected, &["h2"]);
    let config = config.map_err(|error| error.to_string())?;
    let channel = grpc::connect(addresses, config).await.map_err(|error| error.to_string())?;
    Ok(PeeringClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
}
