//! `weir demo`
mod control;
mod load;
mod scrape;
mod tally;
mod toys;
