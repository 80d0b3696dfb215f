mod codec;
mod golden;
mod mapped;
