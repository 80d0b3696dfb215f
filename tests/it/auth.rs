//! Logins, tokens and the care taken of CloudStack's count of wrong passwords.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ovirt_gateway::auth::{Config, HmacSecret, Refusal, Role, Sessions};
use ovirt_gateway::cloudstack::Params;
use secrecy::{ExposeSecret, SecretString};

use crate::fake_cloudstack::{Call, Fake, Reply};

fn sessions(fake: &Fake) -> Arc<Sessions> {
    Sessions::new(&Config::default(), fake.endpoint(), HmacSecret::new("secret".into()))
}

/// A CloudStack with one user, `carl` of `acme`, who has no API keys.
fn carl(call: &Call) -> Reply {
    match (call.command(), call.param("password")) {
        ("login", "right") => Reply::recorded("login-domain-user").after(Duration::from_millis(50)),
        ("login", _) => Reply::recorded("login-wrong-password"),
        ("getUserKeys", _) => Reply::recorded("getuserkeys-none"),
        ("listUsers", _) => Reply::recorded("inv-listusers-root"),
        _ => Reply::recorded("session-call"),
    }
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text)
}

#[tokio::test]
async fn two_hundred_requests_cost_one_login() {
    let fake = Fake::start(carl).await;
    let sessions = sessions(&fake);
    let requests: Vec<_> = (0..200)
        .map(|_| {
            let sessions = sessions.clone();
            tokio::spawn(async move { sessions.password("carl@acme", &secret("right")).await })
        })
        .collect();
    for request in requests {
        let caller = request.await.expect("task").expect("caller");
        assert_eq!(caller.user.principal, "carl@acme");
        assert_eq!((caller.user.account.as_str(), caller.user.domain.as_str()), ("carl", "acme"));
        assert_eq!(caller.user.role, Role::User);
        assert!(!caller.user.role.is_root_admin());
    }
    assert_eq!(fake.calls("login").len(), 1);
    assert_eq!(fake.calls("login")[0].param("domain"), "acme");
}

#[tokio::test]
async fn wrong_passwords_reach_cloudstack_three_times_at_most() {
    let fake = Fake::start(carl).await;
    let sessions = sessions(&fake);
    for _ in 0..50 {
        let refused = sessions.password("carl@acme", &secret("wrong")).await;
        assert!(matches!(refused, Err(Refusal::BadCredentials)));
    }
    assert_eq!(fake.calls("login").len(), 1, "the same pair is not asked again");
    for other in ["wrong2", "wrong3"] {
        let refused = sessions.password("CARL@acme", &secret(other)).await;
        assert!(matches!(refused, Err(Refusal::BadCredentials)));
    }
    let locked = sessions.password("carl@acme", &secret("right")).await;
    assert!(
        matches!(locked, Err(Refusal::LockedOut { retry_after }) if retry_after > Duration::from_mins(14))
    );
    assert_eq!(fake.calls("login").len(), 3);
    assert!(matches!(sessions.password("dora@acme", &secret("wrong")).await, Err(Refusal::BadCredentials)));
    assert_eq!(fake.calls("login").len(), 4, "another user is not concerned");
}

#[tokio::test]
async fn a_client_that_hangs_up_still_counts() {
    let fake = Fake::start(|call| carl(call).after(Duration::from_millis(100))).await;
    let sessions = sessions(&fake);
    for wrong in ["1", "2", "3", "4", "5", "6"] {
        let password = secret(wrong);
        let login = sessions.password("carl@acme", &password);
        let _ = tokio::time::timeout(Duration::from_millis(20), login).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(fake.calls("login").len(), 3);
}

#[tokio::test]
async fn tokens_last_until_they_are_revoked() {
    let fake = Fake::start(carl).await;
    let sessions = sessions(&fake);
    let grant = sessions.grant("carl%40acme", &secret("right"), "ovirt-app-api").await.expect("grant");
    let other = sessions.grant("carl@acme", &secret("right"), "ovirt-app-api").await.expect("grant");
    assert_eq!((grant.scope.as_str(), fake.calls("login").len()), ("ovirt-app-api", 1));
    let token = grant.token.expose_secret();
    assert_ne!(token, other.token.expose_secret());
    assert_eq!(sessions.bearer(token).await.expect("caller").user.username, "carl");
    sessions.revoke(token).await;
    sessions.revoke("nonsense").await;
    assert!(matches!(sessions.bearer(token).await, Err(Refusal::UnknownToken)));
    assert!(sessions.bearer(other.token.expose_secret()).await.is_ok());
    assert!(matches!(sessions.bearer("").await, Err(Refusal::UnknownToken)));
}

#[tokio::test]
async fn an_ended_session_is_401_for_the_token_and_a_new_login_for_the_password() {
    let died = Arc::new(AtomicUsize::new(0));
    let dies = died.clone();
    let fake = Fake::start(move |call| match call.command() {
        "listZones" if dies.fetch_add(1, Ordering::SeqCst) == 0 => Reply::recorded("session-dead-after-that"),
        _ => carl(call),
    })
    .await;
    let sessions = sessions(&fake);
    let grant = sessions.grant("carl@acme", &secret("right"), "s").await.expect("grant");
    let token = grant.token.expose_secret();
    let caller = sessions.bearer(token).await.expect("caller");
    assert!(caller.client.zones(Params::new()).await.is_err());
    assert!(matches!(sessions.bearer(token).await, Err(Refusal::Expired)));
    let caller = sessions.password("carl@acme", &secret("right")).await.expect("again");
    assert!(caller.client.zones(Params::new()).await.is_ok());
    assert_eq!(fake.calls("login").len(), 2);
}

#[test]
fn the_sections_are_read_from_a_file() {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Sections {
        auth: Config,
        cloudstack: ovirt_gateway::cloudstack::Config,
    }
    let text = "[cloudstack]\nendpoint = https://cloud.example.com/client/api\nsecret_key = canary\npage_size = 50\n\
                verify_tls = false\n[auth]\ndomains = internal=ROOT,acme-profile=acme\nprofiles = cloudstack\n";
    let file = tempfile::Builder::new().suffix(".ini").tempfile().expect("file");
    std::fs::write(file.path(), text).expect("write");
    let read: Sections =
        ovirt_gateway::config::load_from(Some(file.path()), std::collections::HashMap::new())
            .expect("settings");
    assert_eq!(
        (read.cloudstack.page_size, read.cloudstack.verify_tls, read.cloudstack.timeout),
        (50, false, 60)
    );
    assert_eq!(read.auth.profiles, ["cloudstack"]);
    assert!(!format!("{:?}", read.cloudstack).contains("canary"));
    std::fs::write(file.path(), "[auth]\ndomains = acme\n").expect("write");
    let wrong = ovirt_gateway::config::load_from::<Sections>(Some(file.path()), Default::default());
    assert!(wrong.is_err_and(|error| error.to_string().contains("[auth] domains")));
}

#[tokio::test]
async fn an_unreachable_cloudstack_is_not_a_wrong_password() {
    let tries = AtomicUsize::new(0);
    let fake = Fake::start(move |call| match tries.fetch_add(1, Ordering::SeqCst) {
        0..5 => Reply::json(503, serde_json::Value::Null),
        _ => carl(call),
    })
    .await;
    let sessions = sessions(&fake);
    for _ in 0..5 {
        let refused = sessions.password("carl@acme", &secret("right")).await;
        assert!(matches!(refused, Err(Refusal::Unreachable(_))));
    }
    assert!(sessions.password("carl@acme", &secret("right")).await.is_ok());
    assert!(matches!(sessions.password("carl@acme", &secret("")).await, Err(Refusal::BadCredentials)));
}
