//! One request that the target owns.
#![expect(unsafe_code, reason = "owns a request of the fabric between exec and complete")]

use super::qpair::Qpair;
use super::{Target, Transfer};
use crate::bdev::IoContext;
use drivebay_plugin_api::{self as api, bay_iov, bay_nvmf_req};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// Status Internal Error, as the status field of a response with its phase bit.
const INTERNAL_ERROR: u16 = 0x06 << 1;

/// A command with its data, lent by the fabric. Dropping it completes it with Internal Error.
///
/// It stays on its thread.
///
/// # Invariants
/// From `exec` to `complete` only the target uses the request. The fabric does not change `iov` or free its memory.
/// `tgt[0]` points to the qpair, which lives until all its requests are completed.
#[must_use = "a request must be completed"]
pub struct Request<T: Target>(NonNull<bay_nvmf_req>, PhantomData<*const T>);

impl<T: Target> std::fmt::Debug for Request<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T: Target> Request<T> {
    /// Takes a request that arrived for `qpair`.
    ///
    /// # Safety
    /// The fabric has lent it with `exec` for this qpair, and the qpair counts it.
    pub(super) unsafe fn new(request: NonNull<bay_nvmf_req>, qpair: *const Qpair<T>) -> Self {
        let words = [qpair.expose_provenance() as u64, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: `tgt` is for the target's use while it has the request.
        unsafe { (*request.as_ptr()).tgt = words };
        Self(request, PhantomData)
    }

    #[inline]
    fn raw(&self) -> &bay_nvmf_req {
        // SAFETY: `self` owns the request, and no one else changes it.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn raw_mut(&mut self) -> &mut bay_nvmf_req {
        // SAFETY: as in `raw`.
        unsafe { self.0.as_mut() }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the word is a pointer of this machine")]
    fn qpair_ptr(&self) -> *const Qpair<T> {
        let [qpair, ..] = self.raw().tgt;
        std::ptr::with_exposed_provenance(qpair as usize)
    }

    /// The request's qpair.
    #[inline]
    pub fn qpair(&self) -> &Qpair<T> {
        // SAFETY: the invariant of `tgt[0]`.
        unsafe { &*self.qpair_ptr() }
    }

    /// The 64-byte command.
    #[inline]
    pub fn command(&self) -> &[u8; 64] {
        let words = &raw const self.raw().cmd;
        // SAFETY: 64 bytes that no one changes; bytes need no alignment.
        unsafe { &*words.cast() }
    }

    /// The direction of the data transfer.
    pub fn transfer(&self) -> Transfer {
        match self.raw().xfer {
            api::BAY_NVMF_XFER_H2C => Transfer::FromHost,
            api::BAY_NVMF_XFER_C2H | api::BAY_NVMF_XFER_ZEROES => Transfer::ToHost,
            _ => Transfer::None,
        }
    }

    /// Length of the data in bytes, from the command's SGL.
    #[inline]
    pub fn len(&self) -> u32 {
        self.raw().len
    }

    /// Whether the request has no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A word for the target's use. It is 0 when the request arrives.
    pub fn word(&self) -> u64 {
        let [_, word, ..] = self.raw().tgt;
        word
    }

    /// Sets the target's word.
    pub fn set_word(&mut self, value: u64) {
        let [_, word, ..] = &mut self.raw_mut().tgt;
        *word = value;
    }

    fn pieces(&self) -> &[bay_iov] {
        let raw = self.raw();
        if raw.iov.is_null() {
            return &[];
        }
        // SAFETY: by the invariant, the list has `iovcnt` elements and does not change.
        unsafe { std::slice::from_raw_parts(raw.iov, raw.iovcnt as usize) }
    }

    /// Copies the data, at most its first `max` bytes.
    pub fn read_data(&self, max: usize) -> Vec<u8> {
        let mut data = Vec::with_capacity(max.min(self.len() as usize));
        for piece in self.pieces() {
            let len = (piece.len as usize).min(max - data.len());
            // SAFETY: by the invariant, the piece is readable for its length and only this request uses it.
            data.extend_from_slice(unsafe { std::slice::from_raw_parts(piece.addr.cast(), len) });
        }
        data
    }

    /// Copies `data` into the request's data, up to the shorter length, and sets the response length to that.
    pub fn fill_data(&mut self, data: &[u8]) {
        let mut rest = data;
        for piece in self.pieces() {
            let (now, later) = rest.split_at((piece.len as usize).min(rest.len()));
            // SAFETY: by the invariant, the piece is writable for its length; `data` does not overlap it.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), piece.addr.cast(), now.len()) };
            rest = later;
        }
        self.set_response_len(u32::try_from(data.len() - rest.len()).unwrap_or(u32::MAX));
    }

    /// Sends zeroes to the host, whatever the memory of the data contains. Zeroes the memory itself only for a fabric that
    /// cannot send zeroes by itself.
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
            // SAFETY: by the invariant, the piece is writable for its length.
            unsafe { std::ptr::write_bytes(piece.addr.cast::<u8>(), 0, piece.len as usize) };
        }
    }

    /// Sets how much of the data is sent back, in bytes, at most its length.
    #[inline]
    pub fn set_response_len(&mut self, len: u32) {
        let raw = self.raw_mut();
        raw.rsp_len = len.min(raw.len);
    }

    /// Completes the request with its 16-byte response.
    #[inline]
    pub fn complete(self, response: [u8; 16]) {
        ManuallyDrop::new(self).give_back(response);
    }

    #[inline]
    fn give_back(&mut self, response: [u8; 16]) {
        let place = (&raw mut self.raw_mut().rsp).cast::<[u8; 16]>();
        // SAFETY: `self` owns the 16 bytes of the response; bytes need no alignment.
        unsafe { place.write(response) };
        let (request, qpair) = (self.0, self.qpair_ptr());
        // SAFETY: this function owned the request until now and returns it once; the qpair counts it.
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

// SAFETY: by the invariant, the list and the data stay in place until the request is completed. Only the owner of the context can
// complete it.
unsafe impl<T: Target> IoContext for Request<T> {
    #[inline]
    fn into_raw(self) -> *mut c_void {
        ManuallyDrop::new(self).0.as_ptr().cast()
    }

    #[inline]
    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: `raw` is from `into_raw`, so it is not NULL.
        Self(unsafe { NonNull::new_unchecked(raw.cast()) }, PhantomData)
    }

    #[inline]
    unsafe fn iov(raw: *mut c_void) -> (*const bay_iov, u16) {
        // SAFETY: `raw` is from `into_raw` and was not turned back yet.
        let request = unsafe { &*raw.cast_const().cast::<bay_nvmf_req>() };
        // A count that does not fit becomes 0. The channel then refuses the list, because it is shorter than the blocks.
        (request.iov, u16::try_from(request.iovcnt).unwrap_or(0))
    }
}
