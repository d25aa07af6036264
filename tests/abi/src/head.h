/* SPDX-License-Identifier: Apache-2.0
 *
 * The Drivebay plugin ABI for C and C++. Generated from plugin-api; do not edit:
 * `cargo run -p drivebay-abi-tests` writes it again.
 *
 * A plugin is one shared object that includes this file, fills the tables it needs and ends
 * with BAY_PLUGIN. It links to nothing of Drivebay. The rules are in docs/abi.md. In brackets
 * behind each function type stands the thread it is called on. Names that are keywords of C or
 * C++ have an underscore behind them.
 */
#ifndef BAY_ABI_H
#define BAY_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define BAY_ASSERT(condition, what) static_assert(condition, what)
#define BAY_ALIGNOF(type) alignof(type)
extern "C" {
#else
#define BAY_ASSERT(condition, what) _Static_assert(condition, what)
#define BAY_ALIGNOF(type) _Alignof(type)
#endif

#define BAY_ALIGNED(bytes) __attribute__((aligned(bytes)))
