//! trailhouse
fn main() {}
