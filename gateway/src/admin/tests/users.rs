//! Tests of the calls about users.

use super::*;

#[tokio::test]
async fn a_user_is_sent_to_and_closed_wherever_the_user_is() {
    let endpoint = endpoint(node(Tokens::none()));
    let (status, body) = ask(&endpoint, &format!("POST /v1/users/bob/messages {TEXT}"), "hello").await;
    assert_eq!((status, &body), (202, &serde_json::json!({ "subscribers": 6, "queued": 2, "dropped": 0 })));
    let excluding = format!("POST /v1/users/bob/messages?exclude={} {TEXT}", id(1, 0));
    assert_eq!(ask(&endpoint, &excluding, "").await.1["subscribers"], 5);
    let stranger = format!("POST /v1/users/a%40b/messages {TEXT}");
    assert_eq!(ask(&endpoint, &stranger, "").await.1["subscribers"], 0, "who is not there is no error");
    let close = "DELETE /v1/users/bob/connections?code=4500&reason=bye";
    assert_eq!(ask(&endpoint, close, "").await, (202, serde_json::json!({ "connections": 2, "silent": [] })));
    assert_eq!(ask(&endpoint, close, "").await.1["connections"], 0);
    let nobody = format!("/v1/users/{}", "x".repeat(65));
    for (request, expected) in [
        (format!("POST {nobody}/messages {TEXT}"), (400, "bad_user")),
        (format!("DELETE {nobody}/connections"), (400, "bad_user")),
        ("DELETE /v1/users/bob/connections?code=1006".to_owned(), (400, "bad_close")),
        ("DELETE /v1/users/bob/connections?cod=1000".to_owned(), (400, "bad_request")),
        ("POST /v1/users/bob/messages".to_owned(), (415, "unsupported_type")),
    ] {
        let (status, reason) = refusal(&endpoint, &request, "x").await;
        assert_eq!((status, reason.as_str()), expected, "{request}");
    }
}

#[tokio::test]
async fn nobody_is_put_into_the_channel_of_a_user() {
    let endpoint = endpoint(node(Tokens::none()));
    for method in ["PUT", "DELETE"] {
        for channel in ["user.bob", "user"] {
            let request = format!("{method} /v1/connections/{}/channels/{channel}", id(0, 0));
            assert_eq!(refusal(&endpoint, &request, "").await, (400, "bad_channel".to_owned()), "{request}");
        }
    }
}
