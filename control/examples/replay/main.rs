//! A whole balancer without ports and without a clock: control and one worker, driven by a
//! scenario. Standard input is one JSON document ([`scenario::Scenario`]), standard output the
//! answers of its steps as JSON ([`scenario::Answer`]), one for each step, in order.
//!
//! Rules go in as command lines of `rvsadm`, over a real admin socket, so that a scenario passes
//! through the same code as an operator's commands. Time is what the steps say.
//! `control/tests/e2e/guest` compares the answers with those of the kernel.

mod network;
mod scenario;
mod world;

use std::io::Read;
use std::process::ExitCode;

use scenario::{Answer, Scenario};
use world::World;

fn main() -> ExitCode {
    match run() {
        Ok(answers) => {
            println!("{answers}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("replay: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let scenario: Scenario = serde_json::from_str(&text)?;
    let mut world = World::new(&scenario)?;
    let answers: Vec<Answer> = scenario
        .steps
        .iter()
        .map(|step| world.carry_out(step))
        .collect::<Result<_, _>>()?;
    Ok(serde_json::to_string(&answers)?)
}
