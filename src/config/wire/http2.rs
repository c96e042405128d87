//! The block `http2` of a listener. Doc comments here are the descriptions in the schema.

use super::{
    scalars::{Int, Size, Span, SpanOrNone},
    wire,
};

wire! {
    /// What bounds one HTTP/2 connection of a client.
    Http2Wire as "listener-http2" {
        /// Most streams that the client resets within a second.
        max_resets: Int<1, 1_000_000> = default(Int(1_000)),
        /// Most streams, over the connection's life, that errors of the client make Weir reset.
        max_stream_errors: Int<1, 1_000_000> = default(Int(1_000)),
        /// Most frames within a second that carry nothing of a message: PING, SETTINGS, PRIORITY, `WINDOW_UPDATE`,
        /// unknown and empty ones.
        max_control_frames: Int<100, 10_000_000> = default(Int(10_000)),
        /// Most bytes of one request's body that wait for the endpoint.
        window: Size<65_535, 2_147_483_647> = default(Size(262_144)),
        /// The same for all requests of a connection together.
        connection_window: Size<65_535, 2_147_483_647> = default(Size(1_048_576)),
        /// Most bytes of one answer that wait for the client.
        max_send_buffer: Size<16_384, 2_147_483_647> = default(Size(65_536)),
        /// A client that sent nothing for this long is asked for a sign of life; 0 = never.
        ping_interval: SpanOrNone = default(SpanOrNone::secs(60)),
        /// How long it has for that before its connection is closed.
        ping_timeout: Span = default(Span::secs(20)),
    }
}
