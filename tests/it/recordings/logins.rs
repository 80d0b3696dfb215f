//! Logins, keys and sessions.

use ovirt_gateway::cloudstack::{Client, Login, Params};
use serde_json::json;

use super::errors::{Says, judge};
use super::lossless::text;
use super::{Kind, Player, Recording, of};

async fn login(
    player: &Player,
    recording: &Recording,
) -> Result<(Client, Login), ovirt_gateway::cloudstack::Error> {
    player.play(recording);
    let sent = |name: &str| recording.whole["params"][name].as_str().unwrap_or_default().to_owned();
    let password = sent("password").into();
    Client::login(player.fake.endpoint(), &sent("username"), &password, &sent("domain")).await
}

#[tokio::test]
async fn logins() {
    let player = Player::start().await;
    let mut found = Vec::new();
    let mut users = Vec::new();
    for recording in of(Kind::Login) {
        let told = recording.inner();
        match login(&player, &recording).await {
            Ok((client, login)) => {
                assert_eq!(recording.status(), 200, "{}", recording.name);
                assert!(!client.is_stateless() && !client.has_ended());
                assert_eq!(login.session_idle, told["timeout"].as_u64());
                let user = json!({
                    "userid": login.user.id, "domainid": login.user.domainid,
                    "type": login.user.accounttype.map(|kind| kind.to_string()),
                    "username": login.user.username, "account": login.user.account,
                });
                for (name, value) in user.as_object().expect("an object") {
                    assert_eq!(text(value), text(&told[name]), "{} {name}", recording.name);
                }
                users.push(login.user.username);
            }
            Err(error) => judge(&recording, error, &Says::of(&recording), &mut found),
        }
    }
    assert_eq!(users, ["carl", "admin"]);
    assert_eq!(found, Vec::<String>::new());
}

/// Keys are used if there are any; without, or if they may not be read, the session is kept.
#[tokio::test]
async fn keys() {
    let player = Player::start().await;
    let mut kept = Vec::new();
    for recording in of(Kind::Keys) {
        player.play(&recording);
        let (client, login) =
            Client::login(player.fake.endpoint(), "admin", &"password".into(), "").await.expect("a login");
        assert_eq!(login.user.username, "admin");
        kept.push((recording.name, client.is_stateless()));
        let error = client.query("getUserKeys", Params::new()).await.err();
        assert_eq!(error.is_some(), kept.last().is_some_and(|(name, _)| name == "getuserkeys-foreign"));
    }
    let expected = [("getuserkeys-foreign", false), ("getuserkeys-none", false), ("getuserkeys-self", true)];
    let kept: Vec<_> = kept.iter().map(|(name, keyed)| (name.as_str(), *keyed)).collect();
    assert_eq!(kept, expected);
    let calls = player.fake.calls("listUsers");
    assert!(calls.iter().any(|call| call.param("apikey").starts_with("APIKEY-of-alice")), "they are tried");
}

#[tokio::test]
async fn sessions() {
    let player = Player::start().await;
    let mut found = Vec::new();
    for recording in of(Kind::Session) {
        player.play(&recording);
        let (client, _) =
            Client::login(player.fake.endpoint(), "admin", &"password".into(), "").await.expect("a login");
        let ends = recording.status() == 401;
        match client.query(recording.command(), recording.params()).await {
            Ok(answer) => assert_eq!(&answer, recording.inner(), "{}", recording.name),
            Err(error) => judge(&recording, error, &Says::of(&recording), &mut found),
        }
        assert_eq!(client.has_ended(), ends, "{}: only a 401 ends a session", recording.name);
    }
    assert_eq!(found, Vec::<String>::new());
}
