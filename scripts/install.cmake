# scripts/install.cmake - `cmake --install`: headers, static libraries, the command, a CMake package, a .pc file.
# Headers keep their folders under include/troupe, so that #include "runtime/job.h" reads the same everywhere.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(libraries troupe_pipelines troupe_actors troupe_runtime troupe_transport troupe_ops troupe_base)
foreach(folder base ops transport runtime actors pipelines)
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/troupe
        FILES_MATCHING PATTERN "*.h" PATTERN "*_internal.h" EXCLUDE PATTERN "cpu" EXCLUDE PATTERN "cuda" EXCLUDE)
endforeach()
install(TARGETS troupe RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS troupe_options ${libraries} EXPORT troupe-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/troupe)
install(EXPORT troupe-targets NAMESPACE troupe:: DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/troupe-config.cmake.in ${PROJECT_BINARY_DIR}/troupe-config.cmake
    INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/troupe-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/troupe-config.cmake ${PROJECT_BINARY_DIR}/troupe-config-version.cmake
    DESTINATION ${package_dir})

set(TROUPE_PC_JEMALLOC "")
if(TROUPE_JEMALLOC AND JEMALLOC_FOUND AND NOT TROUPE_SANITIZE)
    set(TROUPE_PC_JEMALLOC " jemalloc")
endif()
set(TROUPE_PC_CURL "")
if(CURL_FOUND)
    set(TROUPE_PC_CURL " libcurl")
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/troupe.pc.in ${PROJECT_BINARY_DIR}/troupe.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/troupe.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
