//! One request in the hands of the target.
#![expect(unsafe_code, reason = "owns a request of the fabric between exec and complete")]

use super::qpair::Qpair;
use super::{Target, Transfer};
use crate::bdev::IoContext;
use drivebay_plugin_api::{self as api, bay_iov, bay_nvmf_req};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// Internal Error, as the status field of a response with its phase bit.
const INTERNAL_ERROR: u16 = 0x06 << 1;

/// A command with its data, lent by the fabric. Dropping it completes it with Internal Error.
///
/// It stays on its thread.
///
/// # Invariants
/// From `exec` to `complete` the request is the target's alone and its fabric keeps `iov` and the memory it names as they are.
/// `tgt[0]` is its qpair, which lives until all its requests were completed.
#[must_use = "a request must be completed"]
pub struct Request<T: Target>(NonNull<bay_nvmf_req>, PhantomData<*const T>);

impl<T: Target> std::fmt::Debug for Request<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T: Target> Request<T> {
    /// Takes a request that came for `qpair`.
    ///
    /// # Safety
    /// The fabric has lent it by `exec` for this qpair, which counts it.
    pub(super) unsafe fn new(request: NonNull<bay_nvmf_req>, qpair: *const Qpair<T>) -> Self {
        let words = [qpair.expose_provenance() as u64, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: `tgt` is the target's while it has the request.
        unsafe { (*request.as_ptr()).tgt = words };
        Self(request, PhantomData)
    }

    #[inline]
    fn raw(&self) -> &bay_nvmf_req {
        // SAFETY: the request is ours, and nobody else changes it.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn raw_mut(&mut self) -> &mut bay_nvmf_req {
        // SAFETY: as `raw`.
        unsafe { self.0.as_mut() }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a pointer of this machine")]
    fn qpair_ptr(&self) -> *const Qpair<T> {
        let [qpair, ..] = self.raw().tgt;
        std::ptr::with_exposed_provenance(qpair as usize)
    }

    /// The qpair it came on.
    #[inline]
    pub fn qpair(&self) -> &Qpair<T> {
        // SAFETY: the invariant of `tgt[0]`.
        unsafe { &*self.qpair_ptr() }
    }

    /// The 64-byte command.
    #[inline]
    pub fn command(&self) -> &[u8; 64] {
        let words = &raw const self.raw().cmd;
        // SAFETY: 64 bytes that nobody changes, and bytes have no alignment.
        unsafe { &*words.cast() }
    }

    /// What its data is for.
    pub fn transfer(&self) -> Transfer {
        match self.raw().xfer {
            api::BAY_NVMF_XFER_H2C => Transfer::FromHost,
            api::BAY_NVMF_XFER_C2H | api::BAY_NVMF_XFER_ZEROES => Transfer::ToHost,
            _ => Transfer::None,
        }
    }

    /// Length of its data in bytes, as the command's SGL says.
    #[inline]
    pub fn len(&self) -> u32 {
        self.raw().len
    }

    /// Whether it has no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A word of the target's own; 0 when the request comes.
    pub fn word(&self) -> u64 {
        let [_, word, ..] = self.raw().tgt;
        word
    }

    /// Sets that word.
    pub fn set_word(&mut self, value: u64) {
        let [_, word, ..] = &mut self.raw_mut().tgt;
        *word = value;
    }

    fn pieces(&self) -> &[bay_iov] {
        let raw = self.raw();
        if raw.iov.is_null() {
            return &[];
        }
        // SAFETY: the invariant: the list has `iovcnt` elements and stays as it is.
        unsafe { std::slice::from_raw_parts(raw.iov, raw.iovcnt as usize) }
    }

    /// Copies the first `max` bytes of its data.
    pub fn read_data(&self, max: usize) -> Vec<u8> {
        let mut data = Vec::with_capacity(max.min(self.len() as usize));
        for piece in self.pieces() {
            let len = (piece.len as usize).min(max - data.len());
            // SAFETY: the invariant: readable for its length, and only this request's.
            data.extend_from_slice(unsafe { std::slice::from_raw_parts(piece.addr.cast(), len) });
        }
        data
    }

    /// Fills its data from `data`, as far as both go, and says how much is to be sent back.
    pub fn fill_data(&mut self, data: &[u8]) {
        let mut rest = data;
        for piece in self.pieces() {
            let (now, later) = rest.split_at((piece.len as usize).min(rest.len()));
            // SAFETY: the invariant: writable for its length, and `data` is another memory.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), piece.addr.cast(), now.len()) };
            rest = later;
        }
        self.set_response_len(u32::try_from(data.len() - rest.len()).unwrap_or(u32::MAX));
    }

    /// Makes zeroes of the data that is sent to the host, whatever its memory holds. The memory itself is cleared only for
    /// a fabric that has no zeroes of its own.
    #[inline]
    pub fn send_zeroes(&mut self) {
        if self.qpair().fabric_sends_zeroes() {
            self.raw_mut().xfer = api::BAY_NVMF_XFER_ZEROES;
        } else {
            self.clear();
        }
    }

    fn clear(&mut self) {
        for piece in self.pieces() {
            // SAFETY: the invariant: writable for its length.
            unsafe { std::ptr::write_bytes(piece.addr.cast::<u8>(), 0, piece.len as usize) };
        }
    }

    /// Says how much of the data is to be sent back, in bytes; at most its length.
    #[inline]
    pub fn set_response_len(&mut self, len: u32) {
        let raw = self.raw_mut();
        raw.rsp_len = len.min(raw.len);
    }

    /// Gives the request back with its 16-byte response.
    #[inline]
    pub fn complete(self, response: [u8; 16]) {
        ManuallyDrop::new(self).give_back(response);
    }

    #[inline]
    fn give_back(&mut self, response: [u8; 16]) {
        let place = (&raw mut self.raw_mut().rsp).cast::<[u8; 16]>();
        // SAFETY: the response's 16 bytes are ours, and bytes have no alignment.
        unsafe { place.write(response) };
        let (request, qpair) = (self.0, self.qpair_ptr());
        // SAFETY: ours until now, given back once; the qpair counts it.
        unsafe { Qpair::completed(qpair, request) };
    }
}

impl<T: Target> Drop for Request<T> {
    #[cold]
    fn drop(&mut self) {
        let [_, _, cid_low, cid_high, ..] = *self.command();
        let [status_low, status_high] = INTERNAL_ERROR.to_le_bytes();
        let mut response = [0; 16];
        response[12..].copy_from_slice(&[cid_low, cid_high, status_low, status_high]);
        self.give_back(response);
    }
}

// SAFETY: the invariant keeps list and data in place until the request is given back, which only the context's owner can do.
unsafe impl<T: Target> IoContext for Request<T> {
    #[inline]
    fn into_raw(self) -> *mut c_void {
        ManuallyDrop::new(self).0.as_ptr().cast()
    }

    #[inline]
    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: from `into_raw`, so not null.
        Self(unsafe { NonNull::new_unchecked(raw.cast()) }, PhantomData)
    }

    #[inline]
    unsafe fn iov(raw: *mut c_void) -> (*const bay_iov, u16) {
        // SAFETY: from `into_raw`, not taken back.
        let request = unsafe { &*raw.cast_const().cast::<bay_nvmf_req>() };
        // A list too long for a request of the bus does not fit its blocks, which the channel checks.
        (request.iov, u16::try_from(request.iovcnt).unwrap_or(0))
    }
}
