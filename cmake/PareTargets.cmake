# What every target of ours shares.

# Warnings as errors, and sanitizers where asked for.
function(pare_own_code target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic)
  if(PARE_DEVELOPER_MODE)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(PARE_SANITIZE)
    # Instrumented code makes GCC warn of variables that are initialized (std::regex, std::function): its manual says so.
    target_compile_options(${target} PUBLIC -fsanitize=address,undefined -fno-omit-frame-pointer -g1 -O1
      $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
  endif()
endfunction()

# The back end lives in its own objects: LibTorch ships newer oneDNN headers than the library we link, so ours must come
# first on the include path.
function(pare_link_onednn target)
  file(GLOB onednn_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/execute/onednn/*.cpp")
  if(NOT PARE_HAS_ONEDNN OR NOT onednn_sources)
    return()
  endif()
  target_sources(${target} PRIVATE ${onednn_sources})
  get_target_property(onednn_include DNNL::dnnl INTERFACE_INCLUDE_DIRECTORIES)
  target_include_directories(${target} BEFORE PRIVATE ${onednn_include})
  # oneDNN and LibTorch share one OpenMP runtime; its team size is set for each call. Linked by name: a full path would
  # have CMake warn, for every executable, that LibTorch brings a library of the same name.
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  separate_arguments(openmp_flags NATIVE_COMMAND "${OpenMP_CXX_FLAGS}")
  target_compile_options(${target} PRIVATE ${openmp_flags})
  target_link_libraries(${target} PRIVATE DNNL::dnnl ${OpenMP_CXX_LIB_NAMES})
  target_compile_definitions(${target} PRIVATE PARE_HAS_ONEDNN=1)
endfunction()

# Sources of one folder are compiled a few at a time: most of what a translation unit costs is LibTorch, once for each.
# Few enough that a change of one of them still builds within a minute; inside other projects, where nobody changes them,
# as many as there are.
function(pare_unity target)
  set(together 12)
  if(NOT PARE_DEVELOPER_MODE)
    set(together 24)
  endif()
  get_target_property(sources ${target} SOURCES)
  get_target_property(base ${target} SOURCE_DIR)
  list(FILTER sources INCLUDE REGEX "\\.cpp$")
  foreach(source IN LISTS sources)
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY "${base}" NORMALIZE)
    file(RELATIVE_PATH folder "${PROJECT_SOURCE_DIR}" "${source}")
    get_filename_component(folder "${folder}" DIRECTORY)
    string(MAKE_C_IDENTIFIER "${folder}" folder)
    list(APPEND members_${folder} "${source}")
    list(APPEND folders "${folder}")
  endforeach()
  list(REMOVE_DUPLICATES folders)
  foreach(folder IN LISTS folders)
    set(position 0)
    foreach(source IN LISTS members_${folder})
      math(EXPR group "${position} / ${together}")
      set_source_files_properties("${source}" PROPERTIES UNITY_GROUP ${folder}_${group})
      math(EXPR position "${position} + 1")
    endforeach()
  endforeach()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
endfunction()

# For examples and tests, whose work is done in the library: they had better be compiled soon than be fast. At this level
# GCC takes members of LibTorch's optionals for uninitialized.
function(pare_compile_quickly target)
  target_compile_options(${target} PRIVATE
    "$<$<AND:$<CONFIG:Release>,$<CXX_COMPILER_ID:GNU>>:-O1;-Wno-maybe-uninitialized>")
endfunction()

# The precompiled header that examples, tests and benchmarks share.
function(pare_shared_header target)
  if(NOT TARGET pare_pch)
    file(WRITE "${PROJECT_BINARY_DIR}/pare_pch.cpp" "")
    add_library(pare_pch OBJECT "${PROJECT_BINARY_DIR}/pare_pch.cpp")
    target_link_libraries(pare_pch PRIVATE pare::pare)
    pare_own_code(pare_pch)
    target_precompile_headers(pare_pch PRIVATE <torch/torch.h> <fmt/format.h>)
    set_target_properties(pare_pch PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  endif()
  target_precompile_headers(${target} REUSE_FROM pare_pch)
endfunction()

# An executable of ours on pare.
function(pare_executable name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE pare::pare)
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}")
  pare_own_code(${name})
  pare_shared_header(${name})
  pare_unity(${name})
endfunction()
