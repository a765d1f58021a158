//! A provider of Terraform that knows its schemas and nothing else: enough for the stock program to validate modules and to run
//! their tests with mocked providers, without a network. It speaks `tfplugin6.Provider` over a socket of its own; the messages
//! are written by hand, with the field numbers of the published interface. It ends when it is dropped.

use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::{Map, Value, json};

/// What Terraform sends at most in one message, in bytes: whole modules with their mocked values.
const REQUEST_MAX: usize = 16 << 20;

#[derive(Clone, PartialEq, Message)]
struct Schemas {
    #[prost(message, optional, tag = "1")]
    provider: Option<Schema>,
    #[prost(btree_map = "string, message", tag = "2")]
    resources: std::collections::BTreeMap<String, Schema>,
    #[prost(btree_map = "string, message", tag = "3")]
    data: std::collections::BTreeMap<String, Schema>,
    #[prost(message, optional, tag = "6")]
    capabilities: Option<Capabilities>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Capabilities {
    #[prost(bool, tag = "2")]
    get_provider_schema_optional: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(int64, tag = "1")]
    version: i64,
    #[prost(message, optional, tag = "2")]
    block: Option<Block>,
}

#[derive(Clone, PartialEq, Message)]
struct Block {
    #[prost(int64, tag = "1")]
    version: i64,
    #[prost(message, repeated, tag = "2")]
    attributes: Vec<Attribute>,
    #[prost(message, repeated, tag = "3")]
    block_types: Vec<NestedBlock>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    kind: Vec<u8>,
    #[prost(bool, tag = "4")]
    required: bool,
    #[prost(bool, tag = "5")]
    optional: bool,
    #[prost(bool, tag = "6")]
    computed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct NestedBlock {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    block: Option<Block>,
    #[prost(int32, tag = "3")]
    nesting: i32,
    #[prost(int64, tag = "4")]
    min_items: i64,
    #[prost(int64, tag = "5")]
    max_items: i64,
}

fn block(level: &Value) -> Block {
    let none = Map::new();
    let entries = |name: &str| level[name].as_object().unwrap_or(&none).iter();
    let attribute = |(name, told): (&String, &Value)| {
        let flag = |letter| told[1].as_str().is_some_and(|flags| flags.contains(letter));
        Attribute {
            name: name.clone(),
            kind: told[0].to_string().into_bytes(),
            required: flag('r'),
            optional: flag('o'),
            computed: flag('c'),
        }
    };
    let nested = |(name, told): (&String, &Value)| NestedBlock {
        name: name.clone(),
        block: Some(block(told)),
        nesting: match told["nesting"].as_str() {
            Some("single") => 1,
            Some("list") => 2,
            Some("set") => 3,
            _ => 4,
        },
        min_items: told["min"].as_i64().unwrap_or(0),
        max_items: told["max"].as_i64().unwrap_or(0),
    };
    Block {
        version: 0,
        attributes: entries("attributes").map(attribute).collect(),
        block_types: entries("blocks").map(nested).collect(),
    }
}

fn schemas(file: &Value) -> Schemas {
    let schema = |level: &Value| Schema { version: 0, block: Some(block(level)) };
    let all = |name: &str| {
        let types = file[name].as_object().expect("a schema has its types");
        types.iter().map(|(name, level)| (name.clone(), schema(level))).collect()
    };
    Schemas {
        provider: Some(schema(&file["provider"])),
        resources: all("resources"),
        data: all("data"),
        capabilities: Some(Capabilities { get_provider_schema_optional: false }),
    }
}

/// A running provider, or several: each has a socket of its own in one folder.
pub struct SchemaServer {
    reattach: Value,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for SchemaServer {
    fn drop(&mut self) {
        self.runtime.take().expect("it is taken once").shutdown_background();
    }
}

impl SchemaServer {
    /// Serves providers by name (`aws`) with their schemas, on sockets below `folder`.
    pub fn start<'a>(folder: &Path, providers: impl IntoIterator<Item = (&'a str, &'a Value)>) -> SchemaServer {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut reattach = Map::new();
        for (name, file) in providers {
            let socket = folder.join(format!("{name}.sock"));
            let listener =
                std::os::unix::net::UnixListener::bind(&socket).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
            listener.set_nonblocking(true).unwrap();
            let answer: Arc<Bytes> = Arc::new(schemas(file).encode_to_vec().into());
            runtime.spawn(serve(listener, answer));
            let address = json!({"Network": "unix", "String": socket});
            let told =
                json!({"Protocol": "grpc", "ProtocolVersion": 6, "Pid": std::process::id(), "Test": true, "Addr": address});
            reattach.insert(format!("hashicorp/{name}"), told);
        }
        SchemaServer { reattach: reattach.into(), runtime: Some(runtime) }
    }

    /// What `TF_REATTACH_PROVIDERS` has to say to use it.
    pub fn reattach(&self) -> String {
        self.reattach.to_string()
    }
}

async fn serve(listener: std::os::unix::net::UnixListener, schemas: Arc<Bytes>) {
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let schemas = schemas.clone();
        let answer = hyper::service::service_fn(move |request| answer(schemas.clone(), request));
        tokio::spawn(async move {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>>;

async fn answer(schemas: Arc<Bytes>, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let method = request.uri().path().to_owned();
    let body = http_body_util::Limited::new(request.into_body(), REQUEST_MAX).collect().await;
    let message = match method.strip_prefix("/tfplugin6.Provider/") {
        Some("GetProviderSchema") => Some((*schemas).clone()),
        Some(
            "ValidateProviderConfig"
            | "ValidateResourceConfig"
            | "ValidateDataResourceConfig"
            | "ConfigureProvider"
            | "StopProvider",
        ) => Some(Bytes::new()),
        _ => None,
    };
    let head = Response::builder().header("content-type", "application/grpc");
    let mut frames: Vec<Result<Frame<Bytes>, std::convert::Infallible>> = Vec::new();
    let mut status = HeaderMap::new();
    match (message, body) {
        (Some(message), Ok(_)) => {
            let mut framed = BytesMut::with_capacity(message.len() + 5);
            framed.put_u8(0);
            framed.put_u32(u32::try_from(message.len()).expect("schemas are small"));
            framed.put_slice(&message);
            frames.push(Ok(Frame::data(framed.freeze())));
            status.insert("grpc-status", "0".parse().unwrap());
        }
        // 12: a provider of schemas alone does nothing else.
        _ => {
            status.insert("grpc-status", "12".parse().unwrap());
        }
    }
    frames.push(Ok(Frame::trailers(status)));
    Ok(head.body(StreamBody::new(futures::stream::iter(frames)).boxed_unsync()).unwrap())
}
