//! `weir demo`
mod control;
mod figures;
mod load;
mod places;
mod scrape;
mod screen;
mod tally;
mod text;
mod toys;
