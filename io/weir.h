/* SPDX-License-Identifier: MIT */
/* weir/weir.h: everything. */
#ifndef WEIR_WEIR_H
#define WEIR_WEIR_H
#include "io.h"
#endif
