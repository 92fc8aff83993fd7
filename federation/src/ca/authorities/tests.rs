use tombolo_core::tls::check_chain;

use super::*;

const LIFE: Duration = Duration::from_secs(3600);

fn east() -> TrustDomain {
    TrustDomain::parse("east.example").unwrap()
}

fn open(directory: &Path) -> Authorities {
    Authorities::open_or_create(directory, &east(), LIFE).unwrap()
}

/// A workload's chain.
fn chain(authorities: &Authorities) -> Vec<CertificateDer<'static>> {
    let (request, id) = (KeyRequest::generate().unwrap(), SpiffeId::new(east(), "shop", "checkout").unwrap());
    authorities.sign_csr(request.csr_der(), &id, LIFE, SystemTime::now()).unwrap().chain
}

fn verifies(chain: &[CertificateDer<'static>], bundle: &TrustBundle) -> bool {
    check_chain(chain, bundle, SystemTime::now()).is_ok()
}

/// A bundle with one root, which a token names by its fingerprint.
fn pinned(chain: &[CertificateDer<'static>], sha256: [u8; 32]) -> TrustBundle {
    let root = chain.iter().find(|certificate| tls::fingerprint(certificate) == sha256).unwrap();
    TrustBundle::new(east(), vec![Arc::from(&**root)], 1).unwrap()
}

#[test]
fn a_rotation_goes_on_through_restarts_and_all_that_is_valid_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let authorities = open(directory.path());
    let (first, secret, token) =
        (authorities.bundle(), authorities.cookie_secret(), authorities.root_sha256());
    let old = chain(&authorities);
    assert_eq!((old.len(), first.sequence), (1, 1));

    authorities.begin(LIFE, None).unwrap();
    let refused = authorities.begin(LIFE, None).unwrap_err().to_string();
    assert!(refused.contains("under way"), "{refused}");
    let authorities = open(directory.path());
    let both = authorities.bundle();
    assert_eq!((both.sequence, both.roots.len()), (2, 2));
    assert!(verifies(&chain(&authorities), &first), "the old root still signs");
    assert_eq!(authorities.pass(LIFE / 2, false).unwrap(), None);
    assert_eq!(authorities.pass(LIFE / 2, false).unwrap(), Some(Step::Sign), "the lead time is over");

    for authorities in [authorities, open(directory.path())] {
        assert_eq!(authorities.progress().rotation.phase, Phase::Signing);
        assert_eq!(*authorities.bundle(), *both, "signing with what was published changes no bundle");
        let new = chain(&authorities);
        assert!(verifies(&new, &both) && verifies(&old, &both));
        assert!(verifies(&new, &first), "also for who knows the old root alone");
        assert!(verifies(&new[..1], &both) && !verifies(&new[..1], &first), "by the cross certificate");
        // Tokens from before and after.
        let controller = authorities.controller_credentials(LIFE, SystemTime::now()).unwrap();
        for sha256 in [token, authorities.root_sha256()] {
            assert!(verifies(controller.chain(), &pinned(controller.chain(), sha256)));
        }
        assert_ne!(token, authorities.root_sha256());
    }
    let authorities = open(directory.path());
    let new = chain(&authorities);
    assert_eq!(authorities.pass(LIFE, true).unwrap(), Some(Step::Retire));
    for (behind, authorities) in [(false, authorities), (true, open(directory.path()))] {
        let last = authorities.bundle();
        assert_eq!((last.sequence, last.roots.len()), (3, 1));
        assert!(verifies(&new, &last) && !verifies(&old, &last));
        assert_eq!(authorities.pass(Duration::ZERO, !behind).unwrap(), None);
        assert_eq!(chain(&authorities).len(), if behind { 2 } else { 1 }, "only for who may be behind");
        let controller = authorities.controller_credentials(LIFE, SystemTime::now()).unwrap();
        assert!(verifies(controller.chain(), &first), "who was away can still be told");
        assert_eq!(authorities.cookie_secret(), secret);
    }
    // And once more.
    let authorities = open(directory.path());
    authorities.begin(LIFE, None).unwrap();
    assert_eq!(authorities.pass(Duration::ZERO, true).unwrap(), Some(Step::Sign));
    assert!(verifies(&chain(&authorities), &authorities.bundle()));
}

#[test]
fn a_crash_between_the_two_files_is_completed_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let authorities = open(directory.path());
    authorities.begin(LIFE, None).unwrap();
    let old = std::fs::read(&path).unwrap();
    let mut record = read_record(directory.path()).unwrap().unwrap();
    let next = record.next.clone();
    authorities.pass(LIFE, false).unwrap();
    let (signing, after) = (authorities.root_sha256(), read_record(directory.path()).unwrap().unwrap());
    assert!(after.next.is_none());
    // As it is after the record was written, and before the authority was.
    record = Record { next, ..after };
    write_record(directory.path(), &record).unwrap();
    write(&path, &old).unwrap();
    let authorities = open(directory.path());
    assert_eq!(authorities.root_sha256(), signing);
    assert!(verifies(&chain(&authorities), &authorities.bundle()));
    assert!(read_record(directory.path()).unwrap().unwrap().next.is_none());
}

#[test]
fn another_authority_in_the_place_of_the_first_keeps_what_is_valid_valid() {
    let directory = tempfile::tempdir().unwrap();
    let authorities = open(directory.path());
    let old = chain(&authorities);
    let supplied = new_root(&east(), SystemTime::now()).unwrap();
    write(&directory.path().join("ca.pem"), &supplied).unwrap();
    let authorities = open(directory.path());
    let bundle = authorities.bundle();
    assert_eq!((bundle.sequence, bundle.roots.len()), (2, 2));
    assert!(verifies(&old, &bundle) && verifies(&chain(&authorities), &bundle));
    assert_eq!(authorities.pass(LIFE, false).unwrap(), Some(Step::Retire));
    assert!(!verifies(&old, &authorities.bundle()) && verifies(&chain(&authorities), &authorities.bundle()));
}

#[test]
fn an_operators_authority_takes_its_place_in_the_same_phases() {
    let (directory, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let authorities = open(directory.path());
    let (first, old) = (authorities.bundle(), chain(&authorities));
    let (intermediate, root, key) = super::super::tests::supplied(LIFE * 100, true);
    let mut supplied = String::new();
    for certificate in [&intermediate, &root] {
        super::super::pem::write(&mut supplied, "CERTIFICATE", certificate);
    }
    let without_key = authorities.begin(LIFE, Some(supplied.as_bytes())).unwrap_err().to_string();
    assert!(without_key.contains("no PKCS#8 private key"), "{without_key}");
    super::super::pem::write(&mut supplied, "PRIVATE KEY", key.serialized_der());
    authorities.begin(LIFE, Some(supplied.as_bytes())).unwrap();
    assert_eq!((authorities.bundle().sequence, authorities.bundle().roots.len()), (2, 2));
    assert!(verifies(&chain(&authorities), &first), "the old root still signs");
    assert_eq!(authorities.pass(Duration::ZERO, true).unwrap(), Some(Step::Sign));
    let authorities = open(directory.path());
    let new = chain(&authorities);
    assert_eq!(new[1], intermediate);
    assert!(verifies(&new, &authorities.bundle()) && verifies(&old, &authorities.bundle()));
    assert!(authorities.controller_credentials(LIFE, now).unwrap().chain().contains(&root), "for tokens");
    assert_eq!(authorities.pass(LIFE, true).unwrap(), Some(Step::Retire));
    assert!(verifies(&new, &authorities.bundle()) && !verifies(&old, &authorities.bundle()));
    // The key of its root is elsewhere, so only the operator can name the next one.
    let refused = authorities.begin(LIFE, None).unwrap_err().to_string();
    assert!(refused.contains("--ca-cert"), "{refused}");
    let refused = authorities.begin(LIFE, Some(supplied.as_bytes())).unwrap_err().to_string();
    assert!(refused.contains("is the one in use"), "{refused}");
    authorities.begin(LIFE, Some(&new_root(&east(), now).unwrap())).unwrap();
}

#[test]
fn a_damaged_record_is_an_error_and_no_new_beginning() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path());
    write(&directory.path().join("rotation.json"), b"{").unwrap();
    let refused = Authorities::open_or_create(directory.path(), &east(), LIFE).unwrap_err().to_string();
    assert!(refused.contains("damaged"), "{refused}");
}
