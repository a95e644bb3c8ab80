//! Goal: a configuration is taken from where it should be, or refused with the line and what was meant.
//! Method: texts and environments as values; nothing of this process's own environment.

use super::*;

fn of(text: &str, environment: &[(&str, &str)], flags: &[Given]) -> Result<Config, ConfigError> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::of(Some((Path::new("s.toml"), text)), environment, flags)
}

fn faults(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    of(text, environment, &[]).err().map_or(Vec::new(), |error| error.0)
}

#[test]
fn an_empty_file_is_the_defaults() {
    let settings = of("", &[], &[]).unwrap().settings();
    assert_eq!(settings.http.to_string(), "127.0.0.1:7080");
    assert_eq!(settings.media, ["127.0.0.1:7081".parse().unwrap()]);
    let limits = crate::policy::limits::Limits { busy_percent_max: 85, ..Default::default() };
    assert_eq!((settings.io.as_str(), settings.shards, settings.limits), ("auto", None, limits));
    let none = Config::of(None, [], &[]).unwrap();
    assert_eq!(none.settings(), settings);
    assert!(none.warnings.is_empty());
}

#[test]
fn each_source_goes_before_the_one_below_and_everything_knows_its_origin() {
    let text = "[server]\nhttp = \"0.0.0.0:1\"\n[limits]\nviewers_max = 5\npublishers_max = 0x10\n";
    let environment = [("PORT", "2"), ("SPILLWAY__LIMITS__VIEWERS_MAX", "6"), ("MEDIA_MAX_PUBLISHERS", "7")];
    let origin = |config: &Config, path: &str| config.at(path).origin.to_string();
    let config = of(text, &[], &[]).unwrap();
    assert_eq!(config.settings().limits.publishers_max, 16);
    assert_eq!(origin(&config, "limits.viewers_max"), "s.toml:4");
    let config = of(text, &environment, &[]).unwrap();
    let settings = config.settings();
    assert_eq!(settings.http.to_string(), "0.0.0.0:2", "PORT is the port alone");
    assert_eq!((settings.limits.viewers_max, settings.limits.publishers_max), (6, 7));
    assert_eq!(origin(&config, "server.http"), "environment PORT");
    let flags = [Given { flag: "--http", value: Value::Text("127.0.0.1:3".into()) }];
    let config = of(text, &environment, &flags).unwrap();
    assert_eq!(config.settings().http.port(), 3);
    assert_eq!(origin(&config, "server.http"), "flag --http");
    assert_eq!(origin(&config, "engine.io"), "default");
}

#[test]
fn what_is_no_key_is_refused_with_its_line_and_what_was_meant() {
    assert_eq!(
        faults("# c\n\n[limits]\nviewer_max = 1\n", &[]),
        ["s.toml:4: `limits.viewer_max` is no key of Spillway's; did you mean `limits.viewers_max`?"]
    );
    assert_eq!(
        faults("[limit]\nviewers_max = 1", &[]),
        ["s.toml:1: `limit.viewers_max` is no table of Spillway's; did you mean `limits.viewers_max`?"]
    );
    assert_eq!(faults("http = 1", &[]), ["s.toml:1: `http` is no key of Spillway's; did you mean `server.http`?"]);
    assert_eq!(
        faults("", &[("SPILLWAY__LIMITS__MAX_VIEWERS", "1")]),
        ["environment: SPILLWAY__LIMITS__MAX_VIEWERS is no name of Spillway's; did you mean SPILLWAY__LIMITS__VIEWERS_MAX?"]
    );
    let all = faults("[server]\nhttp = 5\nport = 7\n[engine]\nio = \"epoll\"\nshards = -1\n[limits]\nviewers_max = true", &[]);
    assert_eq!(all.len(), 5, "all of them at once: {all:#?}");
    assert!(all.iter().any(|fault| fault == "s.toml:5: engine.io: \"epoll\" is not one of auto, frames, uring, socket"), "{all:#?}");
    assert!(all.iter().any(|fault| fault == "s.toml:8: limits.viewers_max must be a whole number from 0 to 1000000"), "{all:#?}");
    assert!(faults("[server\n", &[])[0].starts_with("s.toml:1: "));
    assert!(faults("[server]\nhttp = \"1\"\nhttp = \"2\"", &[])[0].starts_with("s.toml:3: "));
}

#[test]
fn the_names_of_other_systems_are_understood() {
    let environment = [
        ("SERVER_ID", "edge-1"),
        ("MEDIASOUP_ANNOUNCED_IP", "203.0.113.5"),
        ("MEDIASOUP_WORKERS", "4"),
        ("MEDIA_MAX_PUBLISHERS", "3"),
        ("MEDIA_MAX_SUBSCRIBERS_PER_ROOM", "40"),
        ("TURN_URLS", "stun:s.example.org, turn:t.example.org:3478?transport=udp"),
        ("TURN_USERNAME", "u"),
        ("TURN_CREDENTIAL", "very secret"),
    ];
    let config = of("[media]\nlisten = [\"0.0.0.0:1\", \"[::]:1\"]", &environment, &[]).unwrap();
    let settings = config.settings();
    assert_eq!((settings.node_id.as_deref(), settings.shards), (Some("edge-1"), Some(4)));
    assert_eq!(settings.announce, ["203.0.113.5".parse::<IpAddr>().unwrap()]);
    assert_eq!((settings.limits.publishers_max, settings.limits.viewers_per_room_max), (3, 40));
    assert_eq!(settings.turn.urls, ["stun:s.example.org", "turn:t.example.org:3478?transport=udp"]);
    assert_eq!(settings.turn.secret, Some(TurnSecret::Variable("TURN_CREDENTIAL".into())));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    // Both names: one counts, and it is said which.
    let both = of("", &[("SERVER_ID", "a"), ("SPILLWAY__NODE__ID", "b")], &[]).unwrap();
    assert_eq!(both.settings().node_id.as_deref(), Some("b"));
    assert_eq!(both.warnings, ["SERVER_ID is ignored: SPILLWAY__NODE__ID is set as well"]);
    // An empty one is not there: compose files write them so.
    assert_eq!(of("", &[("PORT", ""), ("TURN_URLS", " ")], &[]).unwrap().settings().http.port(), 7080);
    assert_eq!(faults("", &[("PORT", "80000")]), ["environment: PORT: `80000` is not a port, 0 to 65535"]);
}

#[test]
fn a_secret_is_not_taken_from_the_file_and_never_shown() {
    let refused = faults("[turn]\ncredential = \"x\"", &[]);
    assert!(refused[0].contains("SPILLWAY__TURN__CREDENTIAL, or turn.credential_file"), "{refused:?}");
    let secret = "s3cret-of-turn";
    let config = of("", &[("TURN_CREDENTIAL", secret)], &[]).unwrap();
    let other = of("", &[("TURN_CREDENTIAL", "another")], &[]).unwrap();
    assert!(!config.show(true).contains(secret) && config.show(true).contains("# credential is set and not shown"));
    assert!(!format!("{:?}", config.changes(&other)).contains(secret));
    assert_eq!(config.changes(&other).len(), 1);
    assert!(!serde_json::to_string(&config.settings()).unwrap().contains(secret));
    let broken = faults("", &[("TURN_CREDENTIAL", "a\u{1}b")]);
    assert!(broken.len() == 1 && !broken[0].contains('\u{1}'), "{broken:?}");
}

#[test]
fn what_is_shown_is_a_file_that_means_the_same() {
    let text = "[server]\nhttp = \"0.0.0.0:1\"\n[media]\nlisten = [\"0.0.0.0:2\", \"[::]:2\"]\n[turn]\nurls = [\"stun:a\"]";
    let config = of(text, &[], &[]).unwrap();
    for with_origin in [false, true] {
        let again = of(&config.show(with_origin), &[], &[]).unwrap();
        assert_eq!(again.settings(), config.settings());
    }
    assert!(config.show(true).contains("# s.toml:2"));
    // And so does the template with every comment sign taken away from its values.
    let template: String = template().lines().map(|line| format!("{}\n", line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))).collect();
    assert_eq!(of(&template, &[], &[]).unwrap().settings(), Config::of(None, [], &[]).unwrap().settings());
}

#[test]
fn a_reload_takes_what_can_be_taken_and_names_the_rest() {
    let old = of("[limits]\nviewers_max = 1", &[], &[]).unwrap();
    let new = of("[limits]\nviewers_max = 2\n[server]\nhttp = \"127.0.0.1:9\"", &[], &[]).unwrap();
    let changes: Vec<(String, bool)> = old.changes(&new).iter().map(|(key, ..)| (key.path(), key.is_live)).collect();
    assert_eq!(changes, [("server.http".to_owned(), false), ("limits.viewers_max".to_owned(), true)]);
    let running = old.with_live_of(&new).settings();
    assert_eq!((running.limits.viewers_max, running.http.port()), (2, 7080));
}

#[test]
fn contradictions_are_found() {
    let two = faults("[media]\nlisten = [\"0.0.0.0:1\", \"0.0.0.0:2\"]", &[]);
    assert!(two[0].starts_with("media.listen (s.toml:2) has two of one family"), "{two:?}");
    let flags = [Given { flag: "--media", value: Value::List(vec!["0.0.0.0:1".into(), "0.0.0.0:2".into()]) }];
    let usage = of("", &[], &flags).err().unwrap();
    assert!(usage.is_usage() && !ConfigError(two).is_usage(), "{usage}");
    for url in ["live.example.org", "https://", "ftp://a", "https://a b", "https://u@a"] {
        let text = format!("[server]\npublic_url = \"{url}\"");
        assert_eq!(faults(&text, &[]).len(), 1, "{url}");
    }
    assert_eq!(faults("[turn]\nurls = [\"http://a\"]", &[]).len(), 1);
    assert!(faults("[turn]\nsecret_file = \"/nowhere/secret\"", &[])[0].contains("/nowhere/secret cannot be read"));
    let warned = of("[media]\nannounce = [\"203.0.113.5\"]\n[turn]\nurls = [\"turn:a\"]", &[], &[]).unwrap();
    assert_eq!(warned.warnings.len(), 2);
}

#[test]
fn torture_of_the_parser_gives_faults_and_no_panic() {
    let good = "[server]\nhttp = \"0.0.0.0:1\"\n[media]\nlisten = [\"0.0.0.0:2\"]\n[limits]\nviewers_max = 5_000\n";
    for cut in 0..good.len() {
        let _ = of(&good[..cut], &[], &[]);
        for byte in [b'[', b'"', b'=', 0, 0x7f, b'\n', b'\\'] {
            let mut bytes = good.as_bytes().to_vec();
            bytes[cut] = byte;
            let _ = of(&String::from_utf8_lossy(&bytes), &[], &[]);
        }
    }
    for text in ["[limits]\nviewers_max = 99999999999999999999999", "[limits.x.y]", "[[limits]]", "limits = []", "a.b.c = 1"] {
        assert!(!faults(text, &[]).is_empty(), "{text}");
    }
    let deep = format!("[limits]\nviewers_max = {}", "[".repeat(100_000));
    assert!(!faults(&deep, &[]).is_empty());
}
