//! Reads what `strace -f -ttt -T -y` writes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What is recorded: all that makes bytes and names, all that makes them durable, and all that leaves.
const CALLS: &str = "trace=openat,creat,write,pwrite64,writev,pwritev,fsync,fdatasync,sync_file_range,msync,rename,renameat,\
                     renameat2,link,linkat,unlink,unlinkat,sendto,sendmsg";
/// Every sync takes this long: an acknowledgement that does not wait for it leaves before it has ended, every time.
const SYNC_DELAY: &str = "inject=fsync,fdatasync:delay_enter=25ms";

/// One system call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) name: String,
    /// Between the parentheses, as strace shows it; when the call was cut in two, what came first.
    pub(super) arguments: String,
    /// Seconds since 1970.
    pub(super) began: f64,
    /// When it had returned; none if it never did, or failed.
    pub(super) ended: Option<f64>,
}

impl Call {
    /// The file or socket that the first argument is.
    pub(super) fn file(&self) -> &str {
        let Some((_, rest)) = self.arguments.split_once('<') else { return "" };
        // sockets are shown as <TCP:[1.2.3.4:5->6.7.8.9:10]>
        let end = if rest.starts_with("TCP:[") { rest.find("]>").map(|at| at + 1) } else { rest.find('>') };
        &rest[..end.unwrap_or(rest.len())]
    }

    /// All bytes that are shown as strings.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut found = Vec::new();
        let mut rest = self.arguments.as_bytes();
        while let Some(begin) = rest.iter().position(|byte| *byte == b'"') {
            let used = unquote(&rest[begin + 1..], &mut found);
            rest = &rest[begin + 1 + used..];
        }
        found
    }

    pub(super) fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync")
    }

    pub(super) fn is_write(&self) -> bool {
        matches!(self.name.as_str(), "write" | "pwrite64" | "writev" | "pwritev")
    }
}

/// Takes a quoted string up to its closing quote; how many bytes of `text` that were.
fn unquote(text: &[u8], out: &mut Vec<u8>) -> usize {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => return at + 1,
            b'\\' => at += 1 + unescape(&text[at + 1..], out),
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    at
}

fn unescape(text: &[u8], out: &mut Vec<u8>) -> usize {
    let octal = text.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
    if octal > 0 {
        let value = text[..octal].iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
        out.push(u8::try_from(value & 0xff).unwrap());
        return octal;
    }
    let Some(letter) = text.first() else { return 0 };
    out.push(match letter {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'v' => 0x0b,
        b'f' => 0x0c,
        other => *other,
    });
    1
}

/// Reads a record: calls in the order in which they began.
pub(super) fn parse(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: Vec<(&str, usize)> = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((time, rest)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(time) = time.parse::<f64>() else { continue };
        if rest.starts_with("<... ") {
            let Some(place) = open.iter().position(|(waits, _)| *waits == thread) else { continue };
            let (_, at) = open.swap_remove(place);
            // the second half is written when the call has returned
            calls[at].ended = succeeded(rest).then_some(time.max(calls[at].began + took(rest)));
            continue;
        }
        let Some((name, arguments)) = rest.split_once('(') else { continue };
        let is_cut = rest.ends_with("<unfinished ...>");
        if is_cut {
            open.push((thread, calls.len()));
        }
        let ended = (!is_cut && succeeded(rest)).then_some(time + took(rest));
        calls.push(Call { name: name.to_owned(), arguments: arguments.to_owned(), began: time, ended });
    }
    calls
}

/// Whether what is behind the last `=` is no error.
fn succeeded(line: &str) -> bool {
    line.rsplit_once(" = ").is_some_and(|(_, result)| result.starts_with(|first: char| first.is_ascii_digit()))
}

/// The seconds in the angle brackets at the end.
fn took(line: &str) -> f64 {
    let last = line.rsplit_once('<').and_then(|(_, last)| last.strip_suffix('>'));
    last.and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0)
}

/// A process under observation.
pub(super) struct Tracer {
    strace: Child,
    record: PathBuf,
}

impl Tracer {
    /// Attaches to all threads of a process; the reason if that is not to be had here.
    pub(super) fn attach(pid: u32, record: &Path) -> Result<Tracer, String> {
        let said = record.with_extension("said");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-ttt", "-T", "-yy", "-s", "4096", "-e", CALLS, "-e", SYNC_DELAY, "-o"]).arg(record);
        strace.args(["-p", &pid.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
        strace.stderr(std::fs::File::create(&said).unwrap());
        let strace =
            strace.spawn().map_err(|error| format!("strace cannot be run ({error}); apt-get install strace"))?;
        let mut tracer = Tracer { strace, record: record.to_owned() };
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let text = std::fs::read_to_string(&said).unwrap();
            if text.contains("attached") {
                return Ok(tracer);
            }
            if tracer.strace.try_wait().unwrap().is_some() || Instant::now() > until {
                return Err(format!("strace may not attach to process {pid}: {text}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Detaches, and reads what was recorded.
    pub(super) fn detach(mut self) -> Vec<Call> {
        let strace = Pid::from_raw(i32::try_from(self.strace.id()).unwrap()).unwrap();
        kill_process(strace, Signal::INT).unwrap();
        self.strace.wait().unwrap();
        parse(&String::from_utf8_lossy(&std::fs::read(&self.record).unwrap()))
    }
}

// Calls in one piece and in two, with their files, bytes and ends.
#[test]
fn reads_records() {
    let text = "7 100.5 fdatasync(5</a/b.log>) = 0 (DELAYED) <0.25>\n\
                7 101.0 write(5</a/b.log>, \"\\0\\1a\\\"\\377\\n\", 6 <unfinished ...>\n\
                8 101.1 fsync(6</a>) = -1 EIO (Input/output error) <0.1>\n\
                9 101.15 --- SIGCHLD {si_signo=SIGCHLD} ---\n\
                7 101.2 <... write resumed>) = 6 <0.2>\n\
                8 101.3 writev(9<TCP:[127.0.0.1:80->127.0.0.1:9]>, [{iov_base=\"HTTP\", iov_len=4}, {iov_base=\"/1\", \
                iov_len=2}], 2) = 6 <0.000010>\n";
    let calls = parse(text);
    let names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["fdatasync", "write", "fsync", "writev"]);
    assert_eq!(calls[0].ended, Some(100.75));
    assert_eq!(
        (calls[1].file(), calls[1].ended, calls[1].bytes()),
        ("/a/b.log", Some(101.2), b"\0\x01a\"\xff\n".to_vec())
    );
    assert_eq!((calls[2].file(), calls[2].ended), ("/a", None));
    assert_eq!((calls[3].file(), calls[3].bytes()), ("TCP:[127.0.0.1:80->127.0.0.1:9]", b"HTTP/1".to_vec()));
}
