//! A PKCS#11 module that behaves like a network HSM, forwarding to a real one.
