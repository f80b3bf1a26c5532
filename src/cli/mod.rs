//! Owns the command line: flags, subcommands and exit codes. Each subcommand is a file beside this one; a new one adds
//! its `mod`, its variant of `Command` and its arm in `dispatch`. Must not know how a subcommand does its work.

mod admin;
mod asking;
pub mod bench;
mod compact;
mod config;
mod data;
mod generate;
mod page;
mod run;
mod service;
mod status;
mod tables;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{Settings, Sources};
use crate::daemon::{ADMIN_TOKEN, STORE};

/// How every subcommand ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked.
    Ok = 0,
    /// It did not work out: a request was refused, or the daemon failed while it ran.
    Failure = 1,
    /// Nothing was begun: wrong usage, wrong settings, or a store that cannot be opened.
    Usage = 2,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A registry daemon for peer-to-peer programs.
#[derive(Parser)]
#[command(name = "waypost", version)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon; the same as no command at all.
    Run,
    /// Print or check the settings.
    #[command(subcommand)]
    Config(config::Command),
    #[command(flatten)]
    Admin(admin::Command),
    #[command(flatten)]
    Data(data::Command),
    /// The admin page.
    #[command(subcommand, name = "admin")]
    Page(page::Command),
    /// Give back the disk space that the store does not need any more; with the daemon stopped.
    Compact(compact::Compact),
    /// Print a script that completes these commands in a shell.
    Completions { shell: clap_complete::Shell },
    /// Write a man page of each command.
    Man(generate::Man),
    /// Load a server and measure it.
    Bench(Box<bench::Bench>),
}

/// Where settings come from; each flag beats the environment, which beats the file.
#[derive(Args)]
struct Flags {
    /// TOML file with settings.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address that peers connect to, or unix:PATH [server.listen].
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Address of the admin endpoint, or unix:PATH [server.admin_listen].
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    admin_listen: Option<String>,
    /// Directory of the store [server.data_dir].
    #[arg(long, global = true, value_name = "DIRECTORY")]
    data_dir: Option<String>,
    /// How log lines look, text or json [log.format].
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any setting; may be repeated.
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    set: Vec<Assignment>,
}

#[derive(Clone)]
struct Assignment {
    section: String,
    key: String,
    text: String,
}

fn assignment(text: &str) -> Result<Assignment, &'static str> {
    let (name, text) = text.split_once('=').ok_or("expected section.key=value")?;
    let (section, key) = name.split_once('.').ok_or("expected section.key=value")?;
    Ok(Assignment { section: section.trim().to_owned(), key: key.trim().to_owned(), text: text.to_owned() })
}

impl Flags {
    fn sources(&self) -> Sources {
        let mut sources = Sources::default().environment(std::env::vars_os());
        if let Some(path) = &self.config {
            sources = sources.file(path);
        }
        for assignment in &self.set {
            let Assignment { section, key, text } = assignment;
            sources = sources.flag("--set", section, key, text);
        }
        for (flag, section, key, text) in [
            ("--listen", "server", "listen", &self.listen),
            ("--admin-listen", "server", "admin_listen", &self.admin_listen),
            ("--data-dir", "server", "data_dir", &self.data_dir),
            ("--log-format", "log", "format", &self.log_format),
        ] {
            if let Some(text) = text {
                sources = sources.flag(flag, section, key, text);
            }
        }
        sources
    }

    /// The settings, or the exit code after every fault in them has been told.
    fn settings(&self) -> Result<Settings, Exit> {
        load(&self.sources())
    }
}

fn load(sources: &Sources) -> Result<Settings, Exit> {
    Settings::load(sources).map_err(|error| {
        eprintln!("{error}");
        Exit::Usage
    })
}

/// Turns the process's arguments into its exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = Cli::try_parse_from(&arguments).and_then(|cli| {
        // Of a repeated global flag clap forgets those before a subcommand when there are some behind it.
        let given = arguments.iter().filter_map(|argument| argument.to_str());
        let given = given.filter(|argument| *argument == "--set" || argument.starts_with("--set=")).count();
        if given == cli.flags.set.len() {
            return Ok(cli);
        }
        Err(Cli::command().error(
            ErrorKind::ArgumentConflict,
            "give --set either before the command or behind it, not both",
        ))
    });
    match cli {
        Ok(cli) => dispatch(cli).unwrap_or_else(ExitCode::from),
        Err(error) => {
            // Nobody is left to tell when even that cannot be printed.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Exit> {
    match cli.command {
        None | Some(Command::Run) => {
            let sources = cli.flags.sources();
            Ok(run::run(load(&sources)?, &sources))
        }
        Some(Command::Config(command)) => command.run(&cli.flags).map(ExitCode::from),
        Some(Command::Admin(command)) => {
            let server = cli.flags.settings()?.server;
            let url = server.admin_listen.admin_url();
            let token_file = server.data_dir.join(ADMIN_TOKEN);
            let runtime = tokio::runtime::Builder::new_multi_thread();
            block_on(runtime, async { command.run(&url, &token_file).await })
        }
        Some(Command::Data(command)) => {
            let server = cli.flags.settings()?.server;
            let (url, data_dir) = (server.admin_listen.admin_url(), server.data_dir);
            let place = data::Place { url, token_file: data_dir.join(ADMIN_TOKEN), data_dir };
            command.run(&place).map(ExitCode::from)
        }
        Some(Command::Page(command)) => {
            let server = cli.flags.settings()?.server;
            command.run(&server.admin_listen, &server.data_dir.join(ADMIN_TOKEN)).map(ExitCode::from)
        }
        Some(Command::Compact(command)) => {
            let store = cli.flags.settings()?.server.data_dir.join(STORE);
            command.run(&store).map(ExitCode::from)
        }
        Some(Command::Completions { shell }) => {
            generate::completions(shell, Cli::command()).map(ExitCode::from)
        }
        Some(Command::Man(man)) => man.run(Cli::command()).map(ExitCode::from),
        Some(Command::Bench(bench)) => bench::main(*bench),
    }
}

/// Runs a client of the daemon to its end.
fn block_on<E: std::fmt::Display>(
    mut runtime: tokio::runtime::Builder,
    work: impl Future<Output = Result<(), E>>,
) -> Result<ExitCode, Exit> {
    let failed = |error: &dyn std::fmt::Display| {
        eprintln!("{error}");
        Exit::Failure
    };
    runtime
        .enable_all()
        .build()
        .map_err(|error| failed(&error))?
        .block_on(work)
        .map_err(|error| failed(&error))?;
    Ok(Exit::Ok.into())
}
