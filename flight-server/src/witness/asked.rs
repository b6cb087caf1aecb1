//! A witness that is asked over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use engine::proof::{Answer, Unanswered, Witness};
use engine::seal::WitnessKey;
use reqwest::StatusCode;
use url::Url;

/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);
/// What an answer has at most, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// A witness, and where it is.
#[derive(Debug)]
pub(crate) struct HttpWitness {
    key: WitnessKey,
    address: Url,
    client: reqwest::Client,
}

impl HttpWitness {
    /// The witness below this address.
    pub(crate) fn new(key: WitnessKey, prefix: &Url) -> Result<Self, reqwest::Error> {
        let mut address = prefix.clone();
        let path = format!("{}/add-checkpoint", prefix.path().trim_end_matches('/'));
        address.set_path(&path);
        let client = reqwest::Client::builder()
            .timeout(ANSWER_TIME_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            key,
            address,
            client,
        })
    }
}

#[async_trait]
impl Witness for HttpWitness {
    fn key(&self) -> &WitnessKey {
        &self.key
    }

    async fn add_checkpoint(&self, body: String) -> Result<Answer, Unanswered> {
        let unanswered = |error: reqwest::Error| Unanswered(error.without_url().into());
        let request = self.client.post(self.address.clone()).body(body);
        let mut response = request.send().await.map_err(unanswered)?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
            if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Ok(Answer::Refused(status.as_u16()));
            }
            answer.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(answer).unwrap_or_default();
        match status {
            StatusCode::OK => Ok(Answer::Cosigned(text)),
            StatusCode::CONFLICT => match text.trim_end().parse() {
                Ok(size) => Ok(Answer::Other(size)),
                Err(_) => Ok(Answer::Refused(status.as_u16())),
            },
            status if status.is_server_error() => {
                Err(Unanswered(format!("it answers {status}").into()))
            }
            status => Ok(Answer::Refused(status.as_u16())),
        }
    }
}
