output "endpoint_service_name" {
  description = "XksProxyVpcEndpointServiceName of create-custom-key-store."
  value       = aws_vpc_endpoint_service.this.service_name
}

output "proxy_uri_endpoint" {
  description = "XksProxyUriEndpoint of create-custom-key-store."
  value       = "https://${var.private_dns_name}"
}

output "verification_record" {
  description = "The record that proves that the domain is yours, in its public zone."
  value       = aws_vpc_endpoint_service.this.private_dns_name_configuration
}

output "load_balancer_networks" {
  description = "For [[server.proxy_protocol]] of xksd, and for firewalls before its two ports."
  value       = local.networks
}

output "create_custom_key_store" {
  description = "The command, but for the credential and the path of the key store."
  value = join(" ", [
    "aws kms create-custom-key-store",
    "--custom-key-store-type EXTERNAL_KEY_STORE",
    "--custom-key-store-name ${var.name}",
    "--xks-proxy-connectivity VPC_ENDPOINT_SERVICE",
    "--xks-proxy-vpc-endpoint-service-name ${aws_vpc_endpoint_service.this.service_name}",
    "--xks-proxy-uri-endpoint https://${var.private_dns_name}",
    "--xks-proxy-uri-path /PREFIX/kms/xks/v1",
    "--xks-proxy-authentication-credential file://credential.json",
  ])
}
