# `cmake --install`, and the package that `find_package(pare)` finds.
include(CMakePackageConfigHelpers)

if(BUILD_SHARED_LIBS)
  # An installed library finds LibTorch and oneDNN where it was linked to them.
  set_target_properties(pare PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
endif()

install(TARGETS pare EXPORT pareTargets
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/pare")

set(pare_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/pare")
install(EXPORT pareTargets NAMESPACE pare:: DESTINATION "${pare_cmake_dir}")
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/pareConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/pareConfig.cmake" INSTALL_DESTINATION "${pare_cmake_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/pareConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/pareConfig.cmake" "${PROJECT_BINARY_DIR}/pareConfigVersion.cmake"
  DESTINATION "${pare_cmake_dir}")
