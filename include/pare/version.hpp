#pragma once
/// The library's version, and the inline namespace that keeps two versions apart in one program.

#define PARE_VERSION "0.1.0"

/// Opens and closes pare's versioned namespace: `pare::v0::X` is spelled `pare::X`.
#define PARE_NAMESPACE_BEGIN \
  namespace pare {           \
  inline namespace v0 {
#define PARE_NAMESPACE_END \
  }                        \
  }
