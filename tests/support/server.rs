//! A world behind a real HTTP server, for clients that are programs of their own. Each request moves the world's clock, so
//! that whoever polls sees a release go on.

#![allow(dead_code, reason = "each test file uses its own part of the server")]
#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc;
use std::thread;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use tokio::sync::oneshot;

use crate::support::World;

type Job = Box<dyn FnOnce(&Rc<World>) + Send>;

#[derive(Clone)]
struct Shared {
    jobs: mpsc::Sender<Job>,
    step_ms: Arc<AtomicI64>,
    down: Arc<AtomicBool>,
}

/// A world that is served. Its thread ends with the test.
pub struct Server {
    pub url: String,
    shared: Shared,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub fn start() -> Self {
        Self::at(crate::support::START)
    }

    /// The same of a world that begins at another moment.
    pub fn at(now: i64) -> Self {
        let (jobs, work) = mpsc::channel::<Job>();
        // A world is for one thread.
        thread::spawn(move || {
            let world = World::at(now);
            for job in work {
                job(&world);
            }
        });
        let shared = Shared {
            jobs,
            step_ms: Arc::new(AtomicI64::new(0)),
            down: Arc::new(AtomicBool::new(false)),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(shared.clone());
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            url,
            shared,
            runtime: Some(runtime),
        }
    }

    /// Does something with the world, between two requests.
    pub fn with<T: Send + 'static>(
        &self,
        action: impl FnOnce(&Rc<World>) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move |world| {
            let _ = answer.send(action(world));
        });
        self.shared.jobs.send(job).unwrap();
        // Nothing comes if the world has panicked; see above.
        answered.recv().unwrap()
    }

    /// How far each request moves the world's clock before it is answered.
    pub fn step(&self, ms: i64) {
        self.shared.step_ms.store(ms, Ordering::SeqCst);
    }

    /// Lets a proxy in between answer that HMD is gone, or lets it through again.
    pub fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let failed = |text: &str| {
        let body = Body::from(format!("<html>{text}</html>"));
        Response::builder().status(502).body(body).unwrap()
    };
    if shared.down.load(Ordering::SeqCst) {
        return failed("Bad gateway");
    }
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap().to_vec();
    let step_ms = shared.step_ms.load(Ordering::SeqCst);
    let (answer, answered) = oneshot::channel();
    let job: Job = Box::new(move |world| {
        if step_ms > 0 {
            world.run_for(step_ms);
        }
        let headers: Vec<(&str, &str)> = head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()))
            .collect();
        let path = head.uri.path_and_query().unwrap().as_str();
        let _ = answer.send(world.call(head.method.as_str(), path, &headers, body));
    });
    shared.jobs.send(job).unwrap();
    match answered.await {
        Ok(response) => response.map(Body::from),
        Err(_) => failed("the world has panicked"),
    }
}
