//! Foreign programs on loopback, and the least of a server and a client of HTTP for them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::desk::until;

/// A process that ends with the test.
pub struct Running(Child);

impl Running {
    /// Starts a program that is told to listen at `at`, and waits until it does.
    pub fn listening(program: impl AsRef<Path>, arguments: &[String], at: SocketAddr) -> Running {
        let child = Command::new(program.as_ref()).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let running = Running(child.expect("started"));
        until("the program that listens", || TcpStream::connect(at).is_ok());
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address that nobody listens at.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound")
}

/// What is answered to a GET: the body; nothing where nobody answers.
pub fn get(at: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(at).ok()?;
    // As of 1.0: the body comes in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: here\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// Answers every request with what `body` makes of its head, for as long as the tests run.
pub fn serve(body: impl Fn(&str) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = [0; 4096];
            let length = stream.read(&mut asked).unwrap_or(0);
            let body = body(&String::from_utf8_lossy(&asked[..length]));
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\n";
            let _ = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
        }
    });
    at
}
