//! How messages are put on the wire: as everywhere, but with small buffers.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Bytes that a stream's buffer begins with in each direction, in the place of 8 KiB: a controller has thousands of streams
/// that have little to say. Buffers grow with the messages.
const BUFFER: usize = 512;
/// So much is gathered of messages that are there before it is sent, in the place of 32 KiB.
const GATHERED: usize = 4 << 10;

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER, GATHERED)
}

/// The codec of all services here.
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(buffers())
    }
}
