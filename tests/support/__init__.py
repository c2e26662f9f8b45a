"""What tests share: private servers, the fault proxy, fakes."""
