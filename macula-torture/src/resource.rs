//! Something that only one may use at a time: it checks the tokens of those who come, and remembers in which order they did.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use macula::{FencedStore, FencingToken, MemoryFences, Name};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

/// One who came.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    pub(crate) name: Name,
    pub(crate) token: FencingToken,
    pub(crate) shared: bool,
    pub(crate) let_in: bool,
}

/// The resource: it lives in the driver, which is never killed. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Resource(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    fence: FencedStore<MemoryFences>,
    visits: Vec<Visit>,
    ignores: bool,
}

impl Resource {
    /// Begins to serve at a socket. `ignores`: whoever comes is let in.
    pub(crate) fn serve(socket: &Path, ignores: bool) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let resource = Self(Arc::new(Mutex::new(State { ignores, ..State::default() })));
        let served = resource.clone();
        std::thread::Builder::new().name("resource".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || served.answer(stream));
            }
        })?;
        Ok(resource)
    }

    fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let mut answers = stream.try_clone()?;
        for line in BufReader::new(stream).lines() {
            let let_in = self.visit(&line?).unwrap_or(false);
            writeln!(answers, "{}", if let_in { "in" } else { "old" })?;
        }
        Ok(())
    }

    fn visit(&self, line: &str) -> Option<bool> {
        let mut words = line.split(' ');
        let (name, token, how) = (words.next()?, words.next()?, words.next()?);
        let (name, token, shared) = (name.parse::<Name>().ok()?, token.parse().ok()?, how == "shared");
        let mut state = self.0.lock();
        let admitted = match shared {
            true => state.fence.admit_shared(&name, token),
            false => state.fence.admit(&name, token),
        };
        let let_in = admitted.is_ok() || state.ignores;
        state.visits.push(Visit { name, token, shared, let_in });
        Some(let_in)
    }

    /// Who came, in order.
    pub(crate) fn visits(&self) -> Vec<Visit> {
        self.0.lock().visits.clone()
    }
}

/// The way to the resource.
pub(crate) struct Door {
    answers: tokio::io::Lines<tokio::io::BufReader<tokio::net::unix::OwnedReadHalf>>,
    asks: tokio::net::unix::OwnedWriteHalf,
}

impl Door {
    pub(crate) async fn open(socket: &Path) -> io::Result<Self> {
        let (read, asks) = tokio::net::UnixStream::connect(socket).await?.into_split();
        Ok(Self { answers: tokio::io::BufReader::new(read).lines(), asks })
    }

    /// Uses the resource; whether it was let in.
    pub(crate) async fn enter(&mut self, name: &str, token: FencingToken, shared: bool) -> io::Result<bool> {
        let how = if shared { "shared" } else { "alone" };
        self.asks.write_all(format!("{name} {token} {how}\n").as_bytes()).await?;
        Ok(self.answers.next_line().await?.is_some_and(|answer| answer == "in"))
    }
}
